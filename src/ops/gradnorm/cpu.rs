//! Gradient norm on the CPU.

use rayon::prelude::*;

use crate::ops::{lanes, simd};

/// Elements that are summed in f32 before f64 takes over: part of the definition.
const CHUNK: usize = 1 << 14;

/// The sum of squares, infinite where a chunk's overflows f32.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let chunks: Vec<f32> = x.par_chunks(CHUNK).map(square_sum).collect();
    chunks.iter().map(|&sum| f64::from(sum)).sum()
}

/// The place of the first element that is NaN or infinite.
pub fn first_nonfinite(x: &[f32]) -> Option<usize> {
    x.par_iter().position_first(|value| !value.is_finite())
}

simd! {
    fn square_sum(x: &[f32]) -> f32 {
        lanes::sum(x, |value| value * value)
    }
}
