//! The fused classifier on the CPU.

use rayon::prelude::*;

use super::IGNORE;
use crate::device::pool::HostBuffer;
use crate::math;
use crate::ops::element::{Element, narrow_row, per_f32};
use crate::ops::lanes;
use crate::ops::matmul::{Into, Mat, MatMut, Threads, gemm};
use crate::ops::simd;

/// Logits of one chunk at most: 64M elements are 256 MiB. Each chunk reads the weight twice, and reads and writes its
/// gradient. It fixes the order in which that is added up, so it depends on the vocabulary only.
const CHUNK_ELEMENTS: usize = 64 << 20;

fn chunk_rows(v: usize) -> usize {
    (CHUNK_ELEMENTS / v / 64 * 64).clamp(64, 1024)
}

/// Elements of the buffer that holds a chunk's logits, for `n` rows and a vocabulary of `v`: the memory model counts it.
pub fn buffer_elements(n: usize, v: usize) -> usize {
    chunk_rows(v).min(n) * v
}

/// Losses `[N]` of `x` [N, C] against `targets` under `w` [R, C], whose first `v` rows are the vocabulary's and whose others
/// are zero: their logits count as minus infinity.
pub fn forward<E: Element>(losses: &mut [f32], x: &[E], w: &[E], targets: &[u32], v: usize) {
    each_chunk(losses, x, w, targets, v, |_, _, _, _| {}, None);
}

/// Losses, `dx` [N, C] = the gradient of `scale * sum(weights * losses)`, and, where wanted, `dw` [R, C] += its
/// gradient. Without `weights` [N or 0] they are all 1. The gradient of the rows from `v` on is zero.
pub fn forward_backward<E: Element>(
    losses: &mut [f32],
    dx: &mut [E],
    mut dw: Option<&mut [f32]>,
    x: &[E],
    w: &[E],
    targets: &[u32],
    weights: &[f32],
    v: usize,
    scale: f32,
) {
    let c = x.len() / targets.len().max(1);
    let extent = w.len() / c.max(1);
    let back = |first: usize, rows: usize, dlogits: &[E], x: &[E]| {
        let dlogits = Mat::strided(dlogits, rows, extent, extent * per_f32::<E>());
        let dx = MatMut::new(&mut dx[first * c..][..rows * c], rows, c);
        gemm(dx, Into::Set, 1.0, dlogits, Mat::new(w, extent, c), Threads::All);
        if let Some(dw) = &mut dw {
            gemm(MatMut::new(dw, extent, c), Into::Add, 1.0, dlogits.t(), Mat::new(x, rows, c), Threads::All);
        }
    };
    each_chunk(losses, x, w, targets, v, back, Some((scale, weights)));
}

/// Runs the rows through in chunks. With a scale and weights, `back(first row, rows, dlogits, x of the chunk)` is
/// called for each; logits are in f32, and their gradients, which are operands of products, take their places in the
/// dtype of `x`.
fn each_chunk<E: Element>(
    losses: &mut [f32],
    x: &[E],
    w: &[E],
    targets: &[u32],
    v: usize,
    mut back: impl FnMut(usize, usize, &[E], &[E]),
    scale: Option<(f32, &[f32])>,
) {
    let n = targets.len();
    if n == 0 {
        return;
    }
    let c = x.len() / n;
    let extent = w.len() / c;
    let step = chunk_rows(extent);
    let mut buffer = HostBuffer::take(4 * buffer_elements(n, extent));
    for first in (0..n).step_by(step) {
        let rows = step.min(n - first);
        let logits = &mut bytemuck::cast_slice_mut::<u8, f32>(buffer.bytes_mut())[..rows * extent];
        let x = &x[first * c..][..rows * c];
        let weight = Mat::new(w, extent, c).t();
        gemm(MatMut::new(logits, rows, extent), Into::Set, 1.0, Mat::new(x, rows, c), weight, Threads::All);
        let rows_of = logits.par_chunks_mut(extent).zip(&mut losses[first..][..rows]).zip(&targets[first..][..rows]);
        match scale {
            None => rows_of.for_each(|((row, loss), &target)| *loss = row_loss(&mut row[..v], target)),
            Some((scale, weights)) => {
                let scale_of = |row: usize| weights.get(first + row).map_or(scale, |weight| scale * weight);
                rows_of.enumerate().for_each(|(index, ((row, loss), &target))| {
                    *loss = row_loss_and_gradient::<E>(row, v, target, scale_of(index));
                });
                back(first, rows, bytemuck::cast_slice(logits), x);
            }
        }
    }
}

simd! {
    /// The cross-entropy of one row of logits.
    fn row_loss(row: &mut [f32], target: u32) -> f32 {
        if target == IGNORE {
            return 0.0;
        }
        let max = lanes::max(row);
        let sum = lanes::sum(row, |logit| math::exp_near(logit - max));
        log_sum_exp(max, sum) - row[target as usize]
    }

    /// The cross-entropy of the first `v` logits of a row; the row, seen as `E`, becomes the gradient of `scale` times it.
    fn row_loss_and_gradient<E: Element>(row: &mut [f32], v: usize, target: u32, scale: f32) -> f32 {
        if target == IGNORE {
            row.fill(0.0);
            return 0.0;
        }
        let extent = row.len();
        let logits = &mut row[..v];
        let max = lanes::max(logits);
        let label = logits[target as usize];
        for logit in logits.iter_mut() {
            *logit = math::exp_near(*logit - max);
        }
        let sum = lanes::sum(logits, |value| value);
        let factor = scale / sum;
        let of_target = logits[target as usize] * factor - scale;
        narrow_row::<E>(logits, |value| value * factor);
        let gradient = &mut bytemuck::cast_slice_mut::<f32, E>(row)[..extent];
        gradient[target as usize] = E::store(of_target);
        // Beyond the vocabulary probabilities are zero, and so are gradients.
        gradient[v..].fill(E::store(0.0));
        log_sum_exp(max, sum) - label
    }
}

#[inline(always)]
fn log_sum_exp(max: f32, sum: f32) -> f32 {
    (f64::from(max) + math::ln(f64::from(sum))) as f32
}
