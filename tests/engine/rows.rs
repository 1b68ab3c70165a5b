//! Engine rows: rows of the token embedding and the output layer beyond the vocabulary, which only products know of.

use super::common::{Batch, bits, distance, largest, llama, loss_and_grads, noise, random_values, small, wide};
use taper::arch::config::ModelConfig;
use taper::arch::lora::{Lora, LoraConfig};
use taper::checkpoint::adapter::{family, write_adapter};
use taper::checkpoint::write_model_folder;
use taper::model::Gpt;
use taper::model::gpt::Pass;
use taper::nn::Cache;
use taper::ops::adamw::{AdamW, adamw};
use taper::ops::gradnorm::{GradNorm, gradnorm};
use taper::tape::{Layout, ParamId, Params};
use taper::tensor::{DType, Tensor};
use taper::train::save::Base;

/// Rows of the engine, for a vocabulary of 23.
const ROWS: usize = 32;
/// Products over more rows sum in another order: losses and gradients differ by roundings of fp32 of the largest.
const TOLERANCE: f64 = 2e-6;

/// GPT-2 and Llama, tied and untied, with adapters and without.
fn shapes() -> Vec<(ModelConfig, Option<Lora>)> {
    let mut all = Vec::new();
    for base in [small(), llama(&small())] {
        for tie_embeddings in [true, false] {
            let config = ModelConfig { tie_embeddings, ..base.clone() };
            let lora = LoraConfig { rank: Some(3), ..LoraConfig::default() };
            let lora = lora.resolve(family(&config).unwrap()).unwrap();
            all.extend([(config.clone(), None), (config, lora)]);
        }
    }
    all
}

/// The same model with `rows` rows, the same values in it (adapters are not zero).
fn model(config: &ModelConfig, lora: &Option<Lora>, rows: usize) -> (Gpt, Params) {
    let model = Gpt::with_rows(config.clone(), lora.clone(), rows).unwrap();
    let values = random_values(config, 3);
    let mut params = model.with_base(values.iter().map(|(name, _, v)| (name.as_str(), v.as_slice())), 1).unwrap();
    let mut next = noise(8);
    for (index, info) in model.layout().infos().iter().enumerate().filter(|(_, info)| info.name.contains("lora_")) {
        let values: Vec<f32> = (0..info.len()).map(|_| 0.2 * next()).collect();
        params.set(ParamId(index), &values).unwrap();
    }
    (model, params)
}

/// What a file keeps of a buffer of gradients, moments or trained weights.
fn stored(layout: &Layout, buffer: &[f32]) -> Vec<f32> {
    layout.pieces(0..layout.stored()).into_iter().flat_map(|piece| buffer[piece].to_vec()).collect()
}

/// The buffer that a file's values make.
fn placed(layout: &Layout, values: &[f32]) -> Vec<f32> {
    let mut buffer = vec![0.0; layout.trained()];
    let mut from = 0;
    for piece in layout.pieces(0..layout.stored()) {
        let len = piece.len();
        buffer[piece].copy_from_slice(&values[from..from + len]);
        from += len;
    }
    buffer
}

/// Asserts that a buffer of all trained parameters is zero in the spare rows; gives how many parameters have some.
fn spare_rows_are_zero(layout: &Layout, buffer: &[f32], what: &str) -> usize {
    let of = layout.trained_infos().filter(|(info, _)| info.spare_rows > 0);
    of.map(|(info, range)| {
        let spare = info.padded_shape().iter().product::<usize>() - info.len();
        assert!(buffer[range.end..range.end + spare].iter().all(|&x| x == 0.0), "{what}: {}", info.name);
    })
    .count()
}

#[test]
fn losses_gradients_and_logits_are_those_without_the_rows() {
    for (config, lora) in shapes() {
        let ((plain, params), (padded, more)) = (model(&config, &lora, 23), model(&config, &lora, ROWS));
        assert_eq!(plain.layout().parameters(), padded.layout().parameters());
        assert_eq!(plain.parameters_non_embedding(), padded.parameters_non_embedding());
        assert_eq!(plain.layout().stored(), plain.layout().trained());
        assert_eq!(plain.layout().stored(), padded.layout().stored());
        let mut batch = Batch::random(2, 2, 7, config.vocab_size);
        batch.targets[3] = taper::ops::classifier::IGNORE;
        for dtype in [DType::F32, DType::BF16] {
            let of = |params: &Params| Params::to_device(params, taper::device::Device::Cpu, dtype).unwrap();
            let (params, more) = (of(&params), of(&more));
            let (expected, exact) = loss_and_grads((&plain, &params), &batch, &Pass::default());
            let (loss, grads) = loss_and_grads((&padded, &more), &batch, &Pass::default());
            // In bf16 another last bit of a sum may round an activation's gradient the other way.
            let tolerance = if dtype == DType::F32 { TOLERANCE } else { 4e-3 };
            assert!((loss - expected).abs() <= tolerance * expected, "{config:?}: {loss} and {expected}");
            let most = largest(&wide(exact.flat().f32()).collect::<Vec<_>>());
            for (index, info) in plain.layout().infos().iter().enumerate() {
                let id = ParamId(index);
                if exact.wants(id) {
                    let off = distance(wide(exact.of(id)), wide(grads.of(id)));
                    assert!(off <= tolerance * most, "{} in {config:?}: {off:e} of {most:e}", info.name);
                }
            }
            let with_rows = if lora.is_some() { 0 } else { 2 - usize::from(config.tie_embeddings) };
            assert_eq!(spare_rows_are_zero(padded.layout(), grads.flat().f32(), "gradients"), with_rows);
            let norm = |grads| match gradnorm(grads, 1.0) {
                GradNorm::Finite(norm) => f64::from(norm),
                other => panic!("{other:?}"),
            };
            assert!((norm(&grads) - norm(&exact)).abs() <= tolerance * norm(&exact));
        }
        // Logits are those of the vocabulary alone, by the same products.
        let tokens = batch.tensor();
        let logits = |model: &Gpt, params: &Params| model.logits(params, &tokens).unwrap();
        assert_eq!(bits(logits(&plain, &params).f32()), bits(logits(&padded, &more).f32()));
        let decoded = |model: &Gpt, params: &Params| {
            let mut cache = Cache::new(&config, 2, 11, taper::device::Device::Cpu, DType::F32).unwrap();
            model.decode(params, &tokens, &mut cache).unwrap()
        };
        assert_eq!(decoded(&padded, &more).shape(), [2, 23]);
        assert_eq!(bits(decoded(&plain, &params).f32()), bits(decoded(&padded, &more).f32()));
    }
}

/// Weights, moments and losses of `steps` AdamW steps with weight decay from a state as a file keeps it.
fn train((model, params): (&Gpt, &mut Params), state: &mut [Vec<f32>; 3], from: u64, steps: u64) -> Vec<f64> {
    let layout = model.layout().clone();
    let [weights, m, v] = &*state;
    params.load(&placed(&layout, weights)).unwrap();
    let moment = |values: &[f32]| Tensor::from_f32(&placed(&layout, values), &[layout.trained()]).unwrap();
    let (mut m, mut v) = (moment(m), moment(v));
    let mut losses = Vec::new();
    for step in from..from + steps {
        // As of a tokenizer of 19 tokens whose model has 23.
        let batch = Batch::random(100 + step, 3, 7, 19);
        let (loss, grads) = loss_and_grads((model, params), &batch, &Pass::default());
        losses.push(loss);
        let with =
            AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.3, t: step + 1, grad_scale: 1.0 };
        adamw(params, &grads, &mut m, &mut v, &with);
        for (buffer, what) in [(params.trained().f32(), "weights"), (m.f32(), "m"), (v.f32(), "v")] {
            spare_rows_are_zero(&layout, buffer, what);
        }
    }
    *state = [stored(&layout, params.trained().f32()), stored(&layout, m.f32()), stored(&layout, v.f32())];
    losses
}

#[test]
fn training_changes_engines_in_the_middle_and_keeps_the_rows_zero() {
    for (config, lora) in shapes() {
        let ((plain, mut params), (padded, mut more)) = (model(&config, &lora, 23), model(&config, &lora, ROWS));
        let zeros = vec![0.0; plain.layout().stored()];
        let start = [stored(plain.layout(), params.trained().f32()), zeros.clone(), zeros];
        assert_eq!(start[0], stored(padded.layout(), more.trained().f32()), "what files keep");
        assert_eq!(placed(padded.layout(), &start[0]), more.trained().f32());

        let mut expected_state = start.clone();
        let expected = train((&plain, &mut params), &mut expected_state, 0, 6);
        // Two steps without the rows, two with them, two without.
        let mut state = start;
        let mut losses = train((&plain, &mut params), &mut state, 0, 2);
        losses.extend(train((&padded, &mut more), &mut state, 2, 2));
        losses.extend(train((&plain, &mut params), &mut state, 4, 2));
        let off = distance(losses.iter().copied(), expected.iter().copied());
        // Adam divides by the root of tiny second moments, which enlarges a rounding of a gradient near zero.
        assert!(off < 1e-4, "losses {off:e} apart in {config:?}");
        assert_eq!(losses[..3], expected[..3], "the same values in, the same loss to the last bit of its mean");
        let away = distance(wide(&state[0]), wide(&expected_state[0]));
        assert!(away < 2e-3, "weights {away:e} apart in {config:?}");
    }
}

#[test]
fn tokens_that_only_the_model_has_take_part_as_all_others() {
    // A tokenizer of 19 tokens, a model of 23: no text holds the last four, and the softmax does.
    for config in [small(), llama(&small())] {
        let (model, params) = model(&config, &None, ROWS);
        let batch = Batch::random(2, 2, 7, 19);
        let (_, grads) = loss_and_grads((&model, &params), &batch, &Pass::default());
        let head = if config.tie_embeddings { "wte.weight" } else { "lm_head.weight" };
        let (info, range) = model.layout().trained_infos().find(|(info, _)| info.name == head).unwrap();
        let rows: Vec<&[f32]> = grads.flat().f32()[range].chunks(info.shape[1]).collect();
        assert_eq!(rows.len(), 23);
        assert!(rows[19..].iter().all(|row| row.iter().any(|&x| x != 0.0)), "{config:?}");
        assert_eq!(model.logits(&params, &batch.tensor()).unwrap().last(), 23);
    }
}

#[test]
fn files_and_hashes_know_nothing_of_the_rows() {
    for (config, lora) in shapes() {
        let ((plain, params), (padded, more)) = (model(&config, &lora, 23), model(&config, &lora, ROWS));
        let written = |model: &Gpt, params: &Params| {
            let folder = tempfile::tempdir().unwrap();
            let files = match model.lora() {
                Some(lora) => write_adapter(folder.path(), lora, "base", model.layout(), params).unwrap(),
                None => write_model_folder(folder.path(), &config, params, None).unwrap(),
            };
            (files.sha256, Base::new("base".into(), params).hash)
        };
        assert_eq!(written(&plain, &params), written(&padded, &more));
    }
    let error = Gpt::with_rows(small(), None, 22).unwrap_err().to_string();
    assert!(error.contains("22 rows"), "{error}");
}
