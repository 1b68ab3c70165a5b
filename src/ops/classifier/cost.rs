//! The cost of the fused classifier.

use crate::ops::cost::{Cost, Work};

/// `n` rows of width `c` against `v` tokens, forward and both gradients in one pass; logits stay in the cache at best.
pub fn both(n: usize, c: usize, v: usize) -> Work {
    Work { activations: 2 * n * c, weights: v * c, f32: n + 2 * v * c, flops: cost(n, c, v).flops() }
}

/// The products alone: the logits, and two gradients. The way back is part of the forward pass of training.
pub fn cost(n: usize, c: usize, v: usize) -> Cost {
    let product = 2 * n * c * v;
    let of = |flops: usize| Work { flops, ..Work::default() };
    Cost { forward: of(product), backward: of(2 * product) }
}

/// Elements of logits that move where they do not stay in the cache: written by their product, and read as gradients.
pub fn logits(n: usize, v: usize) -> usize {
    2 * n * v
}
