//! Layer normalization on the CPU: blocks of 64 rows, each row read while it is in the nearest cache.

use rayon::prelude::*;

use crate::ops::{lanes, simd};

/// Rows of one task: part of the definition, because it fixes the order in which the gradients of weight and bias are
/// summed.
pub const ROWS: usize = 64;

/// `y` [N, C] from `x` [N, C]; `stats` are the mean and the inverse standard deviation of each row, [N] each.
pub fn forward(y: &mut [f32], stats: (&mut [f32], &mut [f32]), x: &[f32], w: &[f32], b: Option<&[f32]>, eps: f32) {
    let c = w.len();
    let stats = stats.0.par_chunks_mut(ROWS).zip(stats.1.par_chunks_mut(ROWS));
    y.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).zip(stats).for_each(|((y, x), (mean, rstd))| {
        for (i, (y, x)) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)).enumerate() {
            (mean[i], rstd[i]) = forward_row(y, x, w, eps);
            if let Some(b) = b {
                lanes::add(y, b);
            }
        }
    });
}

/// Turns the gradient of `y`, in `d` [N, C], into that of `x`. Gives the sums over each block of rows: C for the weight,
/// then C for the bias, to be added by [`add_partial`].
pub fn backward(d: &mut [f32], stats: (&[f32], &[f32]), x: &[f32], w: &[f32]) -> Vec<Vec<f32>> {
    let c = w.len();
    let stats = stats.0.par_chunks(ROWS).zip(stats.1.par_chunks(ROWS));
    let tasks = d.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).zip(stats);
    tasks
        .map(|((d, x), (mean, rstd))| {
            let mut partial = vec![0.0; 2 * c];
            let (dw, db) = partial.split_at_mut(c);
            for (i, (d, x)) in d.chunks_exact_mut(c).zip(x.chunks_exact(c)).enumerate() {
                backward_row(d, dw, db, x, w, (mean[i], rstd[i]));
            }
            partial
        })
        .collect()
}

/// Adds the `part`-th piece of every block to `sum`, blocks in order.
pub fn add_partial(sum: &mut [f32], partial: &[Vec<f32>], part: usize) {
    let c = sum.len();
    partial.iter().for_each(|block| lanes::add(sum, &block[part * c..(part + 1) * c]));
}

simd! {
    /// One row without the bias; gives its mean and inverse standard deviation.
    pub fn forward_row(y: &mut [f32], x: &[f32], w: &[f32], eps: f32) -> (f32, f32) {
        let c = x.len() as f32;
        let mean = lanes::sum(x, |x| x) / c;
        let variance = lanes::sum(x, |x| (x - mean) * (x - mean)) / c;
        let rstd = 1.0 / (variance + eps).sqrt();
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
            *y = (x - mean) * rstd * w;
        }
        (mean, rstd)
    }

    /// With `n = (x - mean) rstd` and `g = d w`: `dx = rstd (g - mean(g) - n mean(g n))`.
    fn backward_row(d: &mut [f32], dw: &mut [f32], db: &mut [f32], x: &[f32], w: &[f32], stats: (f32, f32)) {
        let (mean, rstd) = stats;
        let c = x.len() as f32;
        let mean_g = lanes::sum2(d, w, |d, w| d * w) / c;
        let mean_gn = lanes::sum3(d, w, x, |d, w, x| d * w * ((x - mean) * rstd)) / c;
        for ((((d, dw), db), &x), &w) in d.iter_mut().zip(dw).zip(db).zip(x).zip(w) {
            let n = (x - mean) * rstd;
            *dw += *d * n;
            *db += *d;
            *d = rstd * (*d * w - mean_g - n * mean_gn);
        }
    }
}
