//! The engine in bf16 on the CPU against itself in fp32: a whole step rounds activations and their gradients, and
//! nothing else.
//!
//! Master weights, moments, losses and gradients of parameters are fp32, so a model learns as it does in fp32:
//! gradients differ by roundings of about 1/256 of an activation that do not add up, and losses by noise.

use super::common::{Batch, distance, engine, llama, loss_and_grads, noise, random_values, small, wide};
use taper::arch::config::{Mlp, ModelConfig, NormPosition};
use taper::device::Device;
use taper::model::gpt::Pass;
use taper::nn::Cache;
use taper::optim::{Hyper, Optimizer};
use taper::tape::Gradients;
use taper::tensor::{DType, Tensor};

/// A GPT-2, a Llama, and a post-norm model: between them every operator.
fn shapes() -> [ModelConfig; 3] {
    let gpt2 = ModelConfig { n_embd: 64, head_dim: 16, mlp_dim: 256, context_length: 130, vocab_size: 301, ..small() };
    let llama = llama(&gpt2);
    let post = ModelConfig { norm_position: NormPosition::Post, mlp: Mlp::Relu2, ..gpt2.clone() };
    [gpt2, llama, post]
}

/// Weights that bf16 holds, in fp32 and in bf16: then only activations are rounded.
fn both(config: &ModelConfig) -> (taper::model::Gpt, [taper::tape::Params; 2]) {
    let mut values = random_values(config, 1);
    values.iter_mut().flat_map(|(_, _, values)| values).for_each(|x| *x = half::bf16::from_f32(*x * 0.3).to_f32());
    // Norms keep their size.
    values.iter_mut().filter(|(name, ..)| name.contains("norm") && name.ends_with("weight")).for_each(
        |(_, _, values)| {
            values.iter_mut().for_each(|x| *x += 0.75);
            values.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
        },
    );
    let (model, wide) = engine(config, &values);
    let narrow = engine(config, &values).1.with_compute(DType::BF16).unwrap();
    (model, [wide, narrow])
}

#[test]
fn gradients_are_those_of_fp32_but_for_rounding() {
    for config in shapes() {
        let (model, [wide, narrow]) = both(&config);
        let batch = Batch::random(2, 2, config.context_length, config.vocab_size);
        let (exact, expected) = loss_and_grads((&model, &wide), &batch, &Pass::default());
        let (loss, found) = loss_and_grads((&model, &narrow), &batch, &Pass::default());
        assert!((loss - exact).abs() < 2e-3 * exact, "{config:?}: loss {loss}, {exact} in fp32");
        assert_eq!(found.flat().dtype(), DType::F32);
        for (id, info) in model.layout().infos().iter().enumerate() {
            let id = taper::tape::ParamId(id);
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
            let pairs = || found.of(id).iter().zip(expected.of(id));
            let off = norm(&mut pairs().map(|(a, b)| f64::from(a - b)));
            let size = norm(&mut pairs().map(|(_, b)| f64::from(*b)));
            let whole = norm(&mut expected.flat().f32().iter().map(|&b| f64::from(b)));
            // A few roundings of 1/512 in quadrature; a small gradient is what large ones leave when they cancel.
            assert!(off <= 0.02 * size + 2e-4 * whole, "{}: {off:e} of {size:e} in {config:?}", info.name);
        }
    }
}

#[test]
fn recomputation_changes_nothing() {
    for config in shapes() {
        let (model, [_, params]) = both(&config);
        super::common::recomputation_changes_nothing((&model, &params), &config);
    }
}

/// Sequences in which a token decides the next but for some noise.
fn learnable(seed: u64, config: &ModelConfig) -> Batch {
    let (b, t, v) = (4, config.context_length, config.vocab_size as u32);
    let mut next = noise(seed);
    let mut rows = Vec::new();
    for _ in 0..b {
        let mut id = ((next() * 0.5 + 0.5) * v as f32) as u32 % v;
        for _ in 0..=t {
            rows.push(id);
            id = if next() > 0.6 { ((next() * 0.5 + 0.5) * v as f32) as u32 % v } else { (id * 7 + 3) % v };
        }
    }
    let part = |skip: usize| rows.chunks(t + 1).flat_map(|row| row[skip..skip + t].to_vec()).collect();
    Batch { b, t, tokens: part(0), targets: part(1) }
}

/// The losses of some steps of AdamW.
fn losses(config: &ModelConfig, dtype: DType, seed: u64) -> Vec<f64> {
    const STEPS: u64 = 60;
    let model = taper::model::Gpt::new(config.clone()).unwrap();
    let mut params = model.initialise(seed).unwrap().with_compute(dtype).unwrap();
    let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
    let mut optimizer = Optimizer::new(hyper, &params).unwrap();
    let step = |step: u64| {
        let batch = learnable(step, config);
        let (loss, grads): (f64, Gradients) = loss_and_grads((&model, &params), &batch, &Pass::default());
        assert!(optimizer.step(&mut params, &grads, loss, 3e-3).class.is_applied());
        loss
    };
    (0..STEPS).map(step).collect()
}

#[test]
fn losses_are_those_of_fp32_within_noise() {
    for config in shapes() {
        let config = ModelConfig { context_length: 40, vocab_size: 67, ..config };
        let wide = losses(&config, DType::F32, 1);
        let narrow = losses(&config, DType::BF16, 1);
        let other = losses(&config, DType::F32, 2);
        let end = |losses: &[f64]| losses[losses.len() - 10..].iter().sum::<f64>() / 10.0;
        assert!(end(&wide) < 0.9 * wide[0], "the model learns: {wide:?}");
        // The noise is what another seed changes; rounding should be well below it, and never more than 1%.
        let apart = distance(wide.iter().copied(), narrow.iter().copied());
        let seeds = distance(wide.iter().copied(), other.iter().copied());
        println!("apart {apart:.4}, seeds {seeds:.4}, ends {:.4} and {:.4}", end(&wide), end(&narrow));
        assert!(apart < seeds.min(0.05), "{apart} apart, and {seeds} for another seed, in {config:?}");
        assert!((end(&wide) - end(&narrow)).abs() < 0.01 * end(&wide), "{} and {}", end(&wide), end(&narrow));
        assert_ne!(wide, narrow);
    }
}

#[test]
fn cached_decoding_is_near_whole_sequences() {
    for config in shapes() {
        let (model, [_, params]) = both(&config);
        let (t, v) = (config.context_length, config.vocab_size);
        let batch = Batch::random(5, 2, t, v);
        let whole = model.logits(&params, &batch.tensor()).unwrap().to_vec_f32().unwrap();
        let most = wide(&whole).fold(0.0, |most: f64, logit| most.max(logit.abs()));
        let mut cache = Cache::new(&config, 2, t, Device::Cpu, DType::BF16).unwrap();
        for piece in [1, 2, 61, 1, 65] {
            let past = cache.len();
            let rows = (0..2).flat_map(|row| &batch.tokens[row * t + past..][..piece]).copied();
            let tokens = Tensor::from_u32(&rows.collect::<Vec<u32>>(), &[2, piece]).unwrap();
            let logits = model.decode(&params, &tokens, &mut cache).unwrap();
            let expected = (0..2).flat_map(|row| &whole[(row * t + past + piece - 1) * v..][..v]);
            let off = distance(wide(logits.f32()), expected.map(|&logit| f64::from(logit)));
            assert!(off < 0.03 * most, "{config:?}: {piece} tokens after {past} are off by {off:e} of {most}");
        }
    }
}
