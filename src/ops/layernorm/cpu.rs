//! Layer normalization on the CPU: blocks of 64 rows, each row read while it is in the nearest cache.

use rayon::prelude::*;

use crate::ops::element::Element;
use crate::ops::{lanes, simd};

/// Rows of one task: part of the definition, because it fixes the order in which the gradients of weight and bias are
/// summed.
pub const ROWS: usize = 64;

/// `y` [N, C] from `x` [N, C]; `stats` are the mean and the inverse standard deviation of each row, `[N]` each.
pub fn forward<E: Element>(y: &mut [E], stats: (&mut [f32], &mut [f32]), x: &[E], w: &[E], b: Option<&[E]>, eps: f32) {
    let c = w.len();
    let stats = stats.0.par_chunks_mut(ROWS).zip(stats.1.par_chunks_mut(ROWS));
    y.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).zip(stats).for_each(|((y, x), (mean, rstd))| {
        for (i, (y, x)) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)).enumerate() {
            (mean[i], rstd[i]) = forward_row(y, x, w, b, eps);
        }
    });
}

/// Turns the gradient of `y`, in `d` [N, C], into that of `x`, and adds `so_far` [N, C] to it, what has come back for `x`
/// already. Gives the sums over each block of rows: C for the weight, then C for the bias, to be added by [`add_partial`].
pub fn backward<E: Element>(
    d: &mut [E],
    stats: (&[f32], &[f32]),
    x: &[E],
    w: &[E],
    so_far: Option<&[E]>,
) -> Vec<Vec<f32>> {
    let c = w.len();
    let stats = stats.0.par_chunks(ROWS).zip(stats.1.par_chunks(ROWS));
    let tasks = d.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).zip(stats);
    tasks
        .enumerate()
        .map(|(block, ((d, x), (mean, rstd)))| {
            let mut partial = vec![0.0; 2 * c];
            let (dw, db) = partial.split_at_mut(c);
            for (i, (d, x)) in d.chunks_exact_mut(c).zip(x.chunks_exact(c)).enumerate() {
                let so_far = so_far.map(|so_far| &so_far[(block * ROWS + i) * c..][..c]);
                backward_row(d, dw, db, x, w, (mean[i], rstd[i]), so_far);
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
    /// One row; gives its mean and inverse standard deviation.
    pub fn forward_row<E: Element>(y: &mut [E], x: &[E], w: &[E], b: Option<&[E]>, eps: f32) -> (f32, f32) {
        let c = x.len() as f32;
        let mean = lanes::sum(x, |x| x) / c;
        let variance = lanes::sum(x, |x| (x - mean) * (x - mean)) / c;
        let rstd = 1.0 / (variance + eps).sqrt();
        let scaled = |x: &E, w: &E| (x.load() - mean) * rstd * w.load();
        match b {
            Some(b) => {
                for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
                    *y = E::store(scaled(x, w) + b.load());
                }
            }
            None => {
                for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                    *y = E::store(scaled(x, w));
                }
            }
        }
        (mean, rstd)
    }

    /// With `n = (x - mean) rstd` and `g = d w`: `dx = rstd (g - mean(g) - n mean(g n))`.
    fn backward_row<E: Element>(
        d: &mut [E],
        dw: &mut [f32],
        db: &mut [f32],
        x: &[E],
        w: &[E],
        stats: (f32, f32),
        so_far: Option<&[E]>,
    ) {
        let (mean, rstd) = stats;
        let c = x.len() as f32;
        let mean_g = lanes::sum2(d, w, |d, w| d * w) / c;
        let mean_gn = lanes::sum3(d, w, x, |d, w, x| d * w * ((x - mean) * rstd)) / c;
        let element = |d: f32, dw: &mut f32, db: &mut f32, x: &E, w: &E| {
            let n = (x.load() - mean) * rstd;
            *dw += d * n;
            *db += d;
            rstd * (d * w.load() - mean_g - n * mean_gn)
        };
        let rows = d.iter_mut().zip(dw).zip(db).zip(x).zip(w);
        match so_far {
            Some(so_far) => {
                for (((((d, dw), db), x), w), so_far) in rows.zip(so_far) {
                    *d = E::store(so_far.load() + element(d.load(), dw, db, x, w));
                }
            }
            None => {
                for ((((d, dw), db), x), w) in rows {
                    *d = E::store(element(d.load(), dw, db, x, w));
                }
            }
        }
    }
}
