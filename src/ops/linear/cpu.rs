//! The linear layer on the CPU: three matrix products and a column sum.

use rayon::prelude::*;

use crate::device::pool::HostBuffer;
use crate::ops::element::Element;
use crate::ops::matmul::{Into, Mat, MatMut, Threads, gemm};
use crate::ops::{lanes, simd};
use crate::tensor::element::as_f32_mut;

/// `y` [N, O] = `x` [N, I] `w`^T [I, O] (+ `b` [O]).
pub fn forward<E: Element>(y: &mut [E], x: &[E], w: &[E], b: Option<&[E]>, n: usize) {
    let Some(b) = b else { return product(y, x, w, n) };
    let (outs, ins) = (y.len() / n, x.len() / n);
    y.par_chunks_mut(outs).for_each(|row| row.copy_from_slice(b));
    add_product(y, (outs, outs), 1.0, (x, ins), Mat::new(w, outs, ins).t());
}

/// `y` [N, O] = `x` [N, I] `w`^T [I, O], in the dtype of `y`.
pub fn product<A: Element, C: Element>(y: &mut [C], x: &[A], w: &[A], n: usize) {
    let (outs, ins) = (y.len() / n, x.len() / n);
    gemm(MatMut::new(y, n, outs), Into::Set, 1.0, Mat::new(x, n, ins), Mat::new(w, outs, ins).t(), Threads::All);
}

/// About this many f32 sums wait to be added to rows in bf16: 4 MiB, which the last cache holds. Many rows at once, because each
/// product reads all of the weight. The buffer is as large for fewer, so that there is one for layers of every width; the memory
/// model counts it.
pub const SUMS: usize = 1 << 20;

/// `y` += `scale` `x` `b`, rounded once: rows of `x` [N, K] are K = `inner` wide; `b` is [K, `cols`], and as many columns are those
/// of each of `y`'s rows, which are `stride` apart.
pub fn add_product<E: Element>(
    y: &mut [E],
    (stride, cols): (usize, usize),
    scale: f32,
    (x, inner): (&[E], usize),
    b: Mat<'_, E>,
) {
    let n = x.len() / inner;
    if let Some(y) = as_f32_mut(y) {
        let y = MatMut::strided(y, n, cols, stride);
        return gemm(y, Into::Add, scale, Mat::new(x, n, inner), b, Threads::All);
    }
    let step = (SUMS / cols / 64 * 64).max(64).min(n);
    let mut buffer = HostBuffer::take(size_of::<f32>() * SUMS.max(step * cols));
    for (x, y) in x.chunks(step * inner).zip(y.chunks_mut(step * stride)) {
        let rows = x.len() / inner;
        let sums = &mut bytemuck::cast_slice_mut::<u8, f32>(buffer.bytes_mut())[..rows * cols];
        gemm(MatMut::new(sums, rows, cols), Into::Set, scale, Mat::new(x, rows, inner), b, Threads::All);
        y.par_chunks_mut(stride).zip(sums.par_chunks(cols)).for_each(|(y, sums)| lanes::add(&mut y[..cols], sums));
    }
}

/// `dx` [N, I] = `dy` [N, O] `w` [O, I].
pub fn backward_input<E: Element>(dx: &mut [E], dy: &[E], w: &[E], n: usize) {
    let (outs, ins) = (dy.len() / n, dx.len() / n);
    gemm(MatMut::new(dx, n, ins), Into::Set, 1.0, Mat::new(dy, n, outs), Mat::new(w, outs, ins), Threads::All);
}

/// `dw` [O, I] += `dy`^T [O, N] `x` [N, I].
pub fn backward_weight<E: Element>(dw: &mut [f32], dy: &[E], x: &[E], n: usize) {
    let (outs, ins) = (dy.len() / n, x.len() / n);
    gemm(MatMut::new(dw, outs, ins), Into::Add, 1.0, Mat::new(dy, n, outs).t(), Mat::new(x, n, ins), Threads::All);
}

/// Rows that are summed by one task: part of the definition, because it fixes the order of the sum.
const ROWS: usize = 64;

/// `db` [O] += the column sums of `dy` [N, O]: rows in order inside blocks of 64, then the blocks in order.
pub fn backward_bias<E: Element>(db: &mut [f32], dy: &[E]) {
    let outs = db.len();
    let blocks: Vec<Vec<f32>> = dy
        .par_chunks(ROWS * outs)
        .map(|block| {
            let mut sum = vec![0.0; outs];
            add_rows(&mut sum, block);
            sum
        })
        .collect();
    blocks.iter().for_each(|block| add_rows(db, block));
}

simd! {
    /// Adds every row of `rows` to `sum`.
    pub fn add_rows<E: Element>(sum: &mut [f32], rows: &[E]) {
        for row in rows.chunks_exact(sum.len()) {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += value.load();
            }
        }
    }
}
