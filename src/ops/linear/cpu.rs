//! The linear layer on the CPU: three matrix products and a column sum.

use rayon::prelude::*;

use crate::ops::element::Element;
use crate::ops::matmul::{Into, Mat, MatMut, Threads, gemm, gemm_bias};
use crate::ops::simd;

/// `y` [N, O] = `x` [N, I] `w`^T [I, O] (+ `b` `[O]`).
pub fn forward<E: Element>(y: &mut [E], x: &[E], w: &[E], b: Option<&[E]>, n: usize) {
    let Some(b) = b else { return product(y, x, w, n) };
    let (outs, ins) = (y.len() / n, x.len() / n);
    gemm_bias(MatMut::new(y, n, outs), Mat::new(x, n, ins), Mat::new(w, outs, ins).t(), b, Threads::All);
}

/// `y` [N, O] = `x` [N, I] `w`^T [I, O], in the dtype of `y`.
pub fn product<A: Element, C: Element>(y: &mut [C], x: &[A], w: &[A], n: usize) {
    let (outs, ins) = (y.len() / n, x.len() / n);
    gemm(MatMut::new(y, n, outs), Into::Set, 1.0, Mat::new(x, n, ins), Mat::new(w, outs, ins).t(), Threads::All);
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

/// `db` `[O]` += the column sums of `dy` [N, O]: rows in order inside blocks of 64, then the blocks in order.
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
