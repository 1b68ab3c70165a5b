//! What must not change a single bit of a step: recomputation and the number of threads.

use super::common::{Batch, bits, engine, llama, pass, random_values, small, with_dropout};
use taper::arch::config::{ModelConfig, NormPosition};
use taper::optim::{Hyper, Optimizer};
use taper::tensor::DType;
use taper::train::lanes::LaneTree;

/// Large enough that every operator has work for several threads: several chunks of every kind.
fn shapes() -> [ModelConfig; 2] {
    let gpt2 = ModelConfig {
        n_embd: 96,
        head_dim: 24,
        mlp_dim: 384,
        context_length: 130,
        vocab_size: 301,
        dropout: 0.1,
        ..small()
    };
    let llama = llama(&gpt2);
    [gpt2, llama]
}

#[test]
fn recomputation_changes_nothing() {
    let post = ModelConfig { norm_position: NormPosition::Post, ..shapes()[0].clone() };
    for config in shapes().into_iter().chain([post]) {
        let (model, params) = engine(&config, &random_values(&config, 1));
        super::common::recomputation_changes_nothing((&model, &params), &config);
    }
}

/// Two optimizer steps of four micro-batches in two lanes: losses, norms, weights and moments, as bits.
fn two_steps(config: &ModelConfig, dtype: DType) -> Vec<Vec<u32>> {
    let (model, params) = engine(config, &random_values(config, 1));
    let mut params = params.with_compute(dtype).unwrap();
    let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
    let mut optimizer = Optimizer::new(hyper, &params).unwrap();
    let mut lanes = LaneTree::new(2).unwrap();
    let mut all = Vec::new();
    for step in 0..2 {
        let t = config.context_length;
        let scale = 1.0 / (4 * 2 * t) as f32;
        let (sum, grads) = lanes
            .step(&params, 4, |micro, grads| {
                let batch = Batch::random(step * 4 + micro as u64, 2, t, config.vocab_size);
                let rows = 2 * micro as u32..2 * micro as u32 + 2;
                let losses = pass((&model, &params), &batch, scale, &with_dropout(0.1, step, rows), grads);
                Ok(losses.iter().map(|&loss| f64::from(loss)).sum())
            })
            .unwrap();
        all.push(bits(grads.get().flat().f32()));
        let outcome = optimizer.step(&mut params, grads.get(), sum, 1e-2);
        assert!(outcome.class.is_applied());
        all.push(vec![sum.to_bits() as u32, (sum.to_bits() >> 32) as u32, outcome.norm.to_bits()]);
    }
    all.push(bits(params.flat().f32()));
    all.extend(optimizer.state().unwrap().slots.iter().map(|(_, values)| bits(values)));
    all
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let cases = shapes().into_iter().flat_map(|config| [(config.clone(), DType::F32), (config, DType::BF16)]);
    for (config, dtype) in cases {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| two_steps(&config, dtype))
        };
        let one = on(1);
        assert!(one.iter().flatten().any(|&bits| bits != 0));
        for threads in [2, 3] {
            assert!(one == on(threads), "other bits on {threads} threads in {dtype:?} in {config:?}");
        }
    }
}
