//! Dropout in a whole model: the masks stand where they should, depend on what they should, and on nothing else.

use super::common::{
    Batch, Values, bits, distance, engine, largest, loss_and_grads, noise, pass, random_values, small, wide,
    with_dropout,
};
use candle_core::{DType, Device, Result, Tensor as CTensor, Var as CVar};
use std::collections::BTreeMap;
use taper::arch::config::ModelConfig;
use taper::arch::init::Init;
use taper::arch::layout::{arena, parameter_specs};
use taper::model::gpt::Pass;
use taper::nn::{Attention, Dropout, Keys, Site};
use taper::random::Mask;
use taper::reference::ops;
use taper::tape::{Gradients, Tape, Var};
use taper::tensor::Tensor;

const P: f64 = 0.25;

fn shape() -> ModelConfig {
    // Dropout in the config is what training makes of it: the engine is told by the pass.
    ModelConfig { n_kv_head: 2, dropout: P, ..small() }
}

/// A pre-norm GPT-2 in candle, in float64, that multiplies by the masks of the contract: Philox of (seed, step, sequence,
/// layer, site, element), with the sites embedding 0, attention 1, attention's branch 2, feed-forward branch 3.
struct ByTheBook<'a> {
    config: &'a ModelConfig,
    variables: BTreeMap<&'a str, CVar>,
    step: u64,
    sequences: &'a [u32],
}

impl ByTheBook<'_> {
    fn w(&self, name: String) -> &CTensor {
        self.variables[name.as_str()].as_tensor()
    }

    fn linear(&self, name: String, x: &CTensor) -> Result<CTensor> {
        ops::linear(x, self.w(format!("{name}.weight")), Some(self.w(format!("{name}.bias"))))
    }

    fn norm(&self, name: String, x: &CTensor) -> Result<CTensor> {
        let bias = self.w(format!("{name}.bias"));
        ops::layernorm(x, self.w(format!("{name}.weight")), Some(bias), self.config.norm_eps)
    }

    /// The factors of `len` elements of every sequence; element `e` is number `e % 8` of block `e / 8`.
    fn factors(&self, layer: usize, site: u32, elements: &[u64], shape: &[usize]) -> Result<CTensor> {
        let mask = Mask::new(77, self.step, layer as u32, site, P);
        let of = |&sequence: &u32| elements.iter().map(move |e| mask.block(sequence, e / 8)[(e % 8) as usize]);
        let factors: Vec<f64> = self.sequences.iter().flat_map(of).map(f64::from).collect();
        CTensor::from_vec(factors, shape, &Device::Cpu)
    }

    fn drop_rows(&self, layer: usize, site: u32, x: &CTensor) -> Result<CTensor> {
        let (_, t, c) = x.dims3()?;
        let elements: Vec<u64> = (0..(t * c) as u64).collect();
        x * self.factors(layer, site, &elements, x.dims())?
    }

    fn attention(&self, layer: usize, x: &CTensor) -> Result<CTensor> {
        let (h, k, d) = (self.config.n_head, self.config.n_kv_head, self.config.head_dim);
        let (b, t, _) = x.dims3()?;
        let qkv = self.linear(format!("h.{layer}.attn.qkv"), x)?;
        let (q, keys, values) = ops::split_qkv(&qkv, h, k, d)?;
        let repeat =
            |x: &CTensor| x.unsqueeze(2)?.broadcast_as((b, k, h / k, t, d))?.contiguous()?.reshape((b, h, t, d));
        let scores = (q.contiguous()?.matmul(&repeat(&keys)?.t()?)? / (d as f64).sqrt())?;
        let visible = |i: usize| (0..t).map(move |j| if j <= i { 0.0 } else { f64::NEG_INFINITY });
        let causal = CTensor::from_vec((0..t).flat_map(visible).collect::<Vec<f64>>(), (t, t), &Device::Cpu)?;
        let probabilities = ops::softmax(&scores.broadcast_add(&causal)?)?;
        // A row of a head starts at a multiple of eight.
        let t8 = t.next_multiple_of(8) as u64;
        let elements: Vec<u64> =
            (0..(h * t) as u64).flat_map(|row| (0..t as u64).map(move |key| row * t8 + key)).collect();
        let dropped = (probabilities * self.factors(layer, 1, &elements, &[b, h, t, t])?)?;
        self.linear(format!("h.{layer}.attn.proj"), &ops::merge_heads(&dropped.matmul(&repeat(&values)?)?)?)
    }

    fn loss(&self, batch: &Batch) -> Result<CTensor> {
        let (b, t) = (batch.b, batch.t);
        let tokens = CTensor::from_slice(&batch.tokens, (b, t), &Device::Cpu)?;
        let wte = self.w("wte.weight".into());
        let x = ops::embedding(wte, &tokens)?.broadcast_add(&self.w("wpe.weight".into()).narrow(0, 0, t)?)?;
        let mut x = self.drop_rows(0, 0, &x)?;
        for i in 0..self.config.n_layer {
            let branch = self.attention(i, &self.norm(format!("h.{i}.norm_1"), &x)?)?;
            x = (&x + self.drop_rows(i, 2, &branch)?)?;
            let up = self.linear(format!("h.{i}.mlp.up"), &self.norm(format!("h.{i}.norm_2"), &x)?)?;
            let branch = self.linear(format!("h.{i}.mlp.down"), &ops::gelu(&up)?)?;
            x = (&x + self.drop_rows(i, 3, &branch)?)?;
        }
        let logits = ops::linear(&self.norm("norm_f".into(), &x)?, wte, None)?;
        let targets = CTensor::from_slice(&batch.targets, b * t, &Device::Cpu)?;
        ops::cross_entropy(&logits.reshape((b * t, self.config.vocab_size))?, &targets)
    }
}

fn by_the_book(
    config: &ModelConfig,
    values: &Values,
    batch: &Batch,
    step: u64,
    sequences: &[u32],
    dtype: DType,
) -> Result<(f64, BTreeMap<String, Vec<f64>>)> {
    let variable = |(name, shape, values): &'_ (String, Vec<usize>, Vec<f32>)| {
        let tensor = CTensor::from_slice(values, shape.as_slice(), &Device::Cpu)?.to_dtype(dtype)?;
        Ok((name.clone(), CVar::from_tensor(&tensor)?))
    };
    let named = values.iter().map(variable).collect::<Result<Vec<_>>>()?;
    let variables = named.iter().map(|(name, variable)| (name.as_str(), variable.clone())).collect();
    let loss = ByTheBook { config, variables, step, sequences }.loss(batch)?;
    let store = loss.backward()?;
    let grad = |(name, variable): &(String, CVar)| {
        let grad = store.get(variable).expect("a gradient for every parameter");
        Ok((name.clone(), grad.flatten_all()?.to_vec1()?))
    };
    Ok((loss.to_scalar()?, named.iter().map(grad).collect::<Result<_>>()?))
}

#[test]
fn a_model_with_dropout_equals_one_that_multiplies_by_the_masks() {
    let config = shape();
    let values = random_values(&config, 3);
    let (model, params) = engine(&config, &values);
    let batch = Batch::random(4, 3, 11, config.vocab_size);
    let (step, rows) = (6, 5..8);
    let sequences: Vec<u32> = rows.clone().collect();
    let (exact_loss, exact) = by_the_book(&config, &values, &batch, step, &sequences, DType::F64).unwrap();
    let (loss, grads) = loss_and_grads((&model, &params), &batch, &with_dropout(P, step, rows));
    // Float32 against float64: what `options` measures as the error of a plain computation, with room.
    assert!((loss - exact_loss).abs() < 2e-6, "{loss} is not {exact_loss}");
    let most = exact.values().map(largest).fold(0.0, f64::max);
    for info in params.layout().infos() {
        let off = distance(wide(&grads.flat().f32()[info.range()]), exact[&info.name].iter().copied());
        assert!(off < 3e-6 * most, "the gradient of {} is off by {off:e} of {most:e}", info.name);
    }
}

#[test]
fn masks_depend_on_the_seed_the_step_and_the_sequence() {
    let config = shape();
    let (model, params) = engine(&config, &random_values(&config, 3));
    let batch = Batch::random(4, 2, 11, config.vocab_size);
    let run = |how: &Pass| {
        let (loss, grads) = loss_and_grads((&model, &params), &batch, how);
        assert!(loss.is_finite() && grads.flat().f32().iter().all(|grad| grad.is_finite()));
        (loss, bits(grads.flat().f32()))
    };
    let first = run(&with_dropout(P, 1, 0..2));
    assert_eq!(first, run(&with_dropout(P, 1, 0..2)), "the same twice");
    let mut other_seed = with_dropout(P, 1, 0..2);
    other_seed.dropout.as_mut().unwrap().seed += 1;
    let others = [with_dropout(P, 2, 0..2), with_dropout(P, 1, 2..4), other_seed, Pass::default()];
    let mut seen = vec![first.0];
    for other in others {
        let (loss, _) = run(&other);
        assert!(!seen.contains(&loss), "the loss {loss} twice, of {seen:?}");
        seen.push(loss);
    }
    // Probability 0 is no dropout, bit for bit.
    assert_eq!(run(&with_dropout(0.0, 1, 0..2)), run(&Pass::default()));
    // What evaluation and sampling use has no dropout, whatever the config says.
    let plain = ModelConfig { dropout: 0.0, ..config.clone() };
    let (without, _) = engine(&plain, &random_values(&plain, 3));
    let logits = |model: &taper::model::Gpt| bits(model.logits(&params, &batch.tensor()).unwrap().f32());
    assert_eq!(logits(&model), logits(&without));
}

#[test]
fn the_cut_into_micro_batches_changes_no_mask() {
    let config = shape();
    let (model, params) = engine(&config, &random_values(&config, 3));
    let batch = Batch::random(8, 4, 11, config.vocab_size);
    let scale = 1.0 / batch.tokens.len() as f32;
    let run = |size: usize| {
        let mut grads = Gradients::zeros_like(&params).unwrap();
        let mut losses = Vec::new();
        for first in (0..4).step_by(size) {
            let how = with_dropout(P, 9, first as u32..(first + size) as u32);
            losses.extend(pass((&model, &params), &batch.part(first..first + size), scale, &how, &mut grads));
        }
        (losses, grads.flat().f32().to_vec())
    };
    let (losses, grads) = run(4);
    let most = grads.iter().fold(0.0f64, |most, &grad| most.max(f64::from(grad).abs()));
    for size in [1, 2] {
        let (losses_cut, grads_cut) = run(size);
        // Only the order of sums differs: a few roundings of the largest value. Other masks are worlds apart (below).
        let off = distance(wide(&losses), wide(&losses_cut));
        assert!(off < 1e-5, "micro-batches of {size}: losses are off by {off:e}");
        let off = distance(wide(&grads), wide(&grads_cut));
        assert!(off < 2e-6 * most, "micro-batches of {size}: gradients are off by {off:e} of {most:e}");
    }
    let mut wrong = Gradients::zeros_like(&params).unwrap();
    for first in [0, 2] {
        let how = with_dropout(P, 9, 0..2);
        pass((&model, &params), &batch.part(first..first + 2), scale, &how, &mut wrong);
    }
    assert!(distance(wide(&grads), wide(wrong.flat().f32())) > 1e-2 * most);
}

/// Checks that the mean over `samples` (each a list of values) is `expected` to five standard errors.
fn mean_is(samples: &[&[f32]], expected: &[f32]) {
    let n = samples.len() as f64;
    let mut varied = 0;
    for (i, &expected) in expected.iter().enumerate() {
        let mean = samples.iter().map(|sample| f64::from(sample[i])).sum::<f64>() / n;
        let variance = samples.iter().map(|sample| (f64::from(sample[i]) - mean).powi(2)).sum::<f64>() / n;
        varied += usize::from(variance > 1e-6);
        let slack = 5.0 * (variance / n).sqrt() + 1e-6;
        assert!((mean - f64::from(expected)).abs() < slack, "element {i}: mean {mean}, not {expected} +- {slack}");
    }
    assert!(varied > expected.len() / 2, "the masks did nothing");
}

#[test]
fn the_mean_over_many_masks_is_the_pass_without() {
    // Everything behind these masks is linear: the probabilities' way through the values and the output projection, and the
    // identity. The truth is the same layer without dropout.
    const SAMPLES: usize = 3000;
    let config = shape();
    let (t, c) = (5, config.n_embd);
    // Larger weights than a model starts with, and biases of zero.
    let mut specs = parameter_specs(&config, None);
    for spec in &mut specs {
        if let Init::Normal { std, .. } = &mut spec.init {
            *std = 0.4;
        }
    }
    let layout = arena(&specs, config.vocab_size);
    let attention = Attention::new(&layout, "h.0.attn", &config);
    let params = taper::nn::init::initialise(&layout, &specs, 1).unwrap();
    let mut next = noise(2);
    let x: Vec<f32> = (0..t * c).map(|_| next()).collect();
    let once = Var::constant(Tensor::from_f32(&x, &[1, t, c]).unwrap());
    let many = Tensor::from_f32(&x.repeat(SAMPLES), &[SAMPLES, t, c]).unwrap();
    let dropout = Dropout { seed: 5, step: 3, probability: P, sequences: (0..SAMPLES as u32).collect() };

    let pass = Pass { dropout: Some(dropout.clone()), ..Pass::default() };
    let mut tape = Tape::inference(&params);
    let expected = attention.forward(&mut tape, &once, None, 1, &Pass::default(), &mut Keys::Sequence).unwrap();
    let found =
        attention.forward(&mut tape, &Var::constant(many.clone()), None, 1, &pass, &mut Keys::Sequence).unwrap();
    mean_is(&found.value().f32().chunks(t * c).collect::<Vec<_>>(), expected.value().f32());
    for site in [Site::Embedding, Site::AttentionOut, Site::MlpOut] {
        let found = dropout.apply(&mut tape, Var::constant(many.clone()), 1, site).unwrap();
        mean_is(&found.value().f32().chunks(t * c).collect::<Vec<_>>(), &x);
    }
}
