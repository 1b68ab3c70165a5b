//! RMS normalization on the CPU: blocks of 64 rows, each row read while it is in the nearest cache.

use rayon::prelude::*;

use crate::ops::{lanes, simd};

/// Rows of one task: part of the definition, because it fixes the order in which the gradient of the weight is summed.
const ROWS: usize = 64;

/// `y` [N, C] from `x` [N, C]; `rstd` [N] is the inverse root mean square of each row.
pub fn forward(y: &mut [f32], rstd: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    let c = w.len();
    let tasks = y.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).zip(rstd.par_chunks_mut(ROWS));
    tasks.for_each(|((y, x), rstd)| {
        for ((y, x), rstd) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(rstd) {
            *rstd = forward_row(y, x, w, eps);
        }
    });
}

/// Turns the gradient of `y`, in `d` [N, C], into that of `x`, and adds that of the weight to `dw` [C].
pub fn backward(d: &mut [f32], dw: &mut [f32], rstd: &[f32], x: &[f32], w: &[f32]) {
    let c = w.len();
    let tasks = d.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).zip(rstd.par_chunks(ROWS));
    let partial: Vec<Vec<f32>> = tasks
        .map(|((d, x), rstd)| {
            let mut sum = vec![0.0; c];
            for ((d, x), &rstd) in d.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(rstd) {
                backward_row(d, &mut sum, x, w, rstd);
            }
            sum
        })
        .collect();
    partial.iter().for_each(|block| lanes::add(dw, block));
}

simd! {
    /// One row; gives its inverse root mean square.
    pub fn forward_row(y: &mut [f32], x: &[f32], w: &[f32], eps: f32) -> f32 {
        let rstd = 1.0 / (lanes::sum(x, |x| x * x) / x.len() as f32 + eps).sqrt();
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
            *y = x * rstd * w;
        }
        rstd
    }

    /// With `n = x rstd` and `g = d w`: `dx = rstd (g - n mean(g n))`.
    fn backward_row(d: &mut [f32], dw: &mut [f32], x: &[f32], w: &[f32], rstd: f32) {
        let mean_gn = lanes::sum3(d, w, x, |d, w, x| d * w * (x * rstd)) / x.len() as f32;
        for (((d, dw), &x), &w) in d.iter_mut().zip(dw).zip(x).zip(w) {
            let n = x * rstd;
            *dw += *d * n;
            *d = rstd * (*d * w - n * mean_gn);
        }
    }
}
