//! RMS normalization on the CPU: blocks of 64 rows, each row read while it is in the nearest cache.

use rayon::prelude::*;

use crate::ops::element::Element;
use crate::ops::{lanes, simd};

/// Rows of one task: part of the definition, because it fixes the order in which the gradient of the weight is summed.
const ROWS: usize = 64;

/// `y` [N, C] from `x` [N, C]; `rstd` `[N]` is the inverse root mean square of each row.
pub fn forward<E: Element>(y: &mut [E], rstd: &mut [f32], x: &[E], w: &[E], eps: f32) {
    let c = w.len();
    let tasks = y.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).zip(rstd.par_chunks_mut(ROWS));
    tasks.for_each(|((y, x), rstd)| {
        for ((y, x), rstd) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(rstd) {
            *rstd = forward_row(y, x, w, eps);
        }
    });
}

/// Turns the gradient of `y`, in `d` [N, C], into that of `x`, to which `so_far` [N, C] is added, what has come back for `x`
/// already, and adds that of the weight to `dw` `[C]`.
pub fn backward<E: Element>(d: &mut [E], dw: &mut [f32], rstd: &[f32], x: &[E], w: &[E], so_far: Option<&[E]>) {
    let c = w.len();
    let tasks = d.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).zip(rstd.par_chunks(ROWS));
    let partial: Vec<Vec<f32>> = tasks
        .enumerate()
        .map(|(block, ((d, x), rstd))| {
            let mut sum = vec![0.0; c];
            for (i, (d, x)) in d.chunks_exact_mut(c).zip(x.chunks_exact(c)).enumerate() {
                let so_far = so_far.map(|so_far| &so_far[(block * ROWS + i) * c..][..c]);
                backward_row(d, &mut sum, x, w, rstd[i], so_far);
            }
            sum
        })
        .collect();
    partial.iter().for_each(|block| lanes::add(dw, block));
}

simd! {
    /// One row; gives its inverse root mean square.
    pub fn forward_row<E: Element>(y: &mut [E], x: &[E], w: &[E], eps: f32) -> f32 {
        let rstd = 1.0 / (lanes::sum(x, |x| x * x) / x.len() as f32 + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = E::store(x.load() * rstd * w.load());
        }
        rstd
    }

    /// With `n = x rstd` and `g = d w`: `dx = rstd (g - n mean(g n))`.
    fn backward_row<E: Element>(
        d: &mut [E],
        dw: &mut [f32],
        x: &[E],
        w: &[E],
        rstd: f32,
        so_far: Option<&[E]>,
    ) {
        let mean_gn = lanes::sum3(d, w, x, |d, w, x| d * w * (x * rstd)) / x.len() as f32;
        let element = |d: f32, dw: &mut f32, x: &E, w: &E| {
            let n = x.load() * rstd;
            *dw += d * n;
            rstd * (d * w.load() - n * mean_gn)
        };
        let rows = d.iter_mut().zip(dw).zip(x).zip(w);
        match so_far {
            Some(so_far) => {
                for ((((d, dw), x), w), so_far) in rows.zip(so_far) {
                    *d = E::store(so_far.load() + element(d.load(), dw, x, w));
                }
            }
            None => {
                for (((d, dw), x), w) in rows {
                    *d = E::store(element(d.load(), dw, x, w));
                }
            }
        }
    }
}
