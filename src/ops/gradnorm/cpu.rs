//! Gradient norm on the CPU.

use rayon::prelude::*;

use crate::ops::{lanes, simd};

/// Elements that are summed in f32 before f64 takes over: part of the definition.
pub const CHUNK: usize = 1 << 14;

/// The sum of squares, infinite where a chunk's overflows f32.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    chunk_squares(x).iter().sum()
}

/// The sum of squares of each [`CHUNK`].
pub fn chunk_squares(x: &[f32]) -> Vec<f64> {
    x.par_chunks(CHUNK).map(|chunk| f64::from(square_sum(chunk))).collect()
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
