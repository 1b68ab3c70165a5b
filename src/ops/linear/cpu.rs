//! The linear layer on the CPU: three matrix products and a column sum.

use rayon::prelude::*;

use crate::ops::matmul::{Into, Mat, MatMut, Threads, gemm};
use crate::ops::simd;

/// `y` [N, O] = `x` [N, I] `w`^T [I, O] (+ `b` [O]).
pub fn forward(y: &mut [f32], x: &[f32], w: &[f32], b: Option<&[f32]>, n: usize) {
    let (outs, ins) = (y.len() / n, x.len() / n);
    let into = match b {
        Some(b) => {
            y.par_chunks_mut(outs).for_each(|row| row.copy_from_slice(b));
            Into::Add
        }
        None => Into::Set,
    };
    gemm(MatMut::new(y, n, outs), into, 1.0, Mat::new(x, n, ins), Mat::new(w, outs, ins).t(), Threads::All);
}

/// `dx` [N, I] = `dy` [N, O] `w` [O, I].
pub fn backward_input(dx: &mut [f32], dy: &[f32], w: &[f32], n: usize) {
    let (outs, ins) = (dy.len() / n, dx.len() / n);
    gemm(MatMut::new(dx, n, ins), Into::Set, 1.0, Mat::new(dy, n, outs), Mat::new(w, outs, ins), Threads::All);
}

/// `dw` [O, I] += `dy`^T [O, N] `x` [N, I].
pub fn backward_weight(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize) {
    let (outs, ins) = (dy.len() / n, x.len() / n);
    gemm(MatMut::new(dw, outs, ins), Into::Add, 1.0, Mat::new(dy, n, outs).t(), Mat::new(x, n, ins), Threads::All);
}

/// Rows that are summed by one task: part of the definition, because it fixes the order of the sum.
const ROWS: usize = 64;

/// `db` [O] += the column sums of `dy` [N, O]: rows in order inside blocks of 64, then the blocks in order.
pub fn backward_bias(db: &mut [f32], dy: &[f32]) {
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
    pub fn add_rows(sum: &mut [f32], rows: &[f32]) {
        for row in rows.chunks_exact(sum.len()) {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}
