//! Residual addition on the CPU.

use rayon::prelude::*;

use crate::ops::lanes;

/// Elements of one task.
const CHUNK: usize = 1 << 14;

/// `y += x`.
pub fn forward(y: &mut [f32], x: &[f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| lanes::add(y, x));
}
