//! Small models with random weights, and one training pass of the engine.

pub use super::models::llama;
use taper::arch::ModelConfig;
use taper::arch::layout::parameter_shapes;
use taper::model::Gpt;
use taper::model::gpt::Pass;
use taper::nn::Dropout;
use taper::tape::{Gradients, Params, Tape};
use taper::tensor::Tensor;

/// Name, shape and values of every parameter.
pub type Values = Vec<(String, Vec<usize>, Vec<f32>)>;

/// A small GPT-2; tests change what they are about. The extents differ from each other, so that a mix-up shows.
pub fn small() -> ModelConfig {
    ModelConfig { mlp_dim: 20, rope_theta: 100.0, ..ModelConfig::gpt2(2, 4, 16, 11, 23) }
}

/// Asserts that recomputation changes no bit of the loss and the gradients, with dropout and without.
pub fn recomputation_changes_nothing(engine: (&Gpt, &Params), config: &ModelConfig) {
    let batch = Batch::random(2, 2, config.context_length, config.vocab_size);
    for stored in [Pass::default(), with_dropout(0.1, 4, 3..5)] {
        let again = Pass { recompute: true, ..stored.clone() };
        let run = |how: &Pass| {
            let (loss, grads) = loss_and_grads(engine, &batch, how);
            (loss.to_bits(), bits(grads.flat().f32()))
        };
        assert!(run(&stored) == run(&again), "other bits with recomputation, {stored:?} in {config:?}");
    }
}

/// Numbers between -1 and 1 that look random, from a linear congruential generator: not from `taper::random`.
pub fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 24) as f32) * 2.0 - 1.0
    }
}

/// Weights large enough for uneven attention, biases that are not zero, norms around one.
pub fn random_values(config: &ModelConfig, seed: u64) -> Values {
    let mut next = noise(seed);
    let shapes = parameter_shapes(config).into_iter();
    shapes
        .map(|(name, shape)| {
            let centre = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
            let values = (0..shape.iter().product()).map(|_| centre + 0.4 * next()).collect();
            (name, shape, values)
        })
        .collect()
}

/// The engine's model with these values.
pub fn engine(config: &ModelConfig, values: &Values) -> (Gpt, Params) {
    let model = Gpt::new(config.clone()).unwrap();
    let params = model.with_values(values.iter().map(|(name, _, values)| (name.as_str(), values.as_slice()))).unwrap();
    (model, params)
}

/// `b` sequences of `t` tokens each, and what follows.
#[derive(Clone)]
pub struct Batch {
    pub b: usize,
    pub t: usize,
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Batch {
    /// Random tokens below `vocab`.
    pub fn random(seed: u64, b: usize, t: usize, vocab: usize) -> Batch {
        let mut next = noise(seed);
        let mut ids = || (0..b * t).map(|_| ((next() * 0.5 + 0.5) * vocab as f32) as u32).collect::<Vec<u32>>();
        Batch { b, t, tokens: ids(), targets: ids() }
    }

    /// The sequences of `rows`.
    pub fn part(&self, rows: std::ops::Range<usize>) -> Batch {
        let of = |ids: &[u32]| ids[rows.start * self.t..rows.end * self.t].to_vec();
        Batch { b: rows.len(), t: self.t, tokens: of(&self.tokens), targets: of(&self.targets) }
    }

    /// The tokens as the engine takes them.
    pub fn tensor(&self) -> Tensor {
        Tensor::from_u32(&self.tokens, &[self.b, self.t]).unwrap()
    }
}

/// Forward and backward of one micro-batch: adds the gradient of `scale` times the sum of the losses to `grads`; gives the
/// loss of every token.
pub fn pass(
    (model, params): (&Gpt, &Params),
    batch: &Batch,
    scale: f32,
    pass: &Pass,
    grads: &mut Gradients,
) -> Vec<f32> {
    let mut tape = Tape::training(params, grads);
    let loss = model.loss(&mut tape, &batch.tensor(), &batch.targets, scale, pass).unwrap();
    let one = Tensor::from_f32(&[1.0], &[1]).unwrap();
    tape.backward(&loss.root, one).unwrap();
    loss.losses.f32().to_vec()
}

/// The mean loss of a batch and the gradient of all parameters.
pub fn loss_and_grads(engine: (&Gpt, &Params), batch: &Batch, how: &Pass) -> (f64, Gradients) {
    let mut grads = Gradients::zeros_like(engine.1).unwrap();
    let n = batch.tokens.len();
    let losses = pass(engine, batch, 1.0 / n as f32, how, &mut grads);
    (losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / n as f64, grads)
}

/// The pass of step `step` with dropout, for the sequences `rows` of the step.
pub fn with_dropout(probability: f64, step: u64, rows: std::ops::Range<u32>) -> Pass {
    let dropout = Dropout { seed: 77, step, probability, sequences: rows.collect() };
    Pass { dropout: Some(dropout), ..Pass::default() }
}

/// The largest distance between two lists; NaN if one has a NaN.
pub fn distance(a: impl IntoIterator<Item = f64>, b: impl IntoIterator<Item = f64>) -> f64 {
    let (a, b): (Vec<f64>, Vec<f64>) = (a.into_iter().collect(), b.into_iter().collect());
    assert_eq!(a.len(), b.len(), "lists of the same length");
    let apart = a.iter().zip(&b).map(|(x, y)| (x - y).abs());
    apart.fold(0.0, |worst, d| if d.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(d) })
}

/// The largest absolute value.
pub fn largest<'v>(values: impl IntoIterator<Item = &'v f64>) -> f64 {
    values.into_iter().fold(0.0, |most, value| most.max(value.abs()))
}

/// Widened.
pub fn wide(values: &[f32]) -> impl Iterator<Item = f64> + '_ {
    values.iter().map(|&value| f64::from(value))
}

/// The bits, for exact comparison.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
