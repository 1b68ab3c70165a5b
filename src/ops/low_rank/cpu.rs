//! The low-rank correction on the CPU.

use crate::ops::element::Element;
use crate::ops::matmul::{Into, Mat, MatMut, Threads, gemm};

/// `h` [N, R] = `x` [N, I] `a`^T; the columns of `y` [N, O] from `first` on += `scale` `h` `b`^T, for `a` [R, I] and
/// `b` [O', R].
pub fn forward<E: Element>(
    y: &mut [E],
    h: &mut [E],
    x: &[E],
    (a, b): (&[E], &[E]),
    n: usize,
    first: usize,
    scale: f32,
) {
    if n == 0 {
        return;
    }
    let (outs, ins, rank) = (y.len() / n, x.len() / n, h.len() / n);
    let rows = b.len() / rank;
    gemm(MatMut::new(h, n, rank), Into::Set, 1.0, Mat::new(x, n, ins), Mat::new(a, rank, ins).t(), Threads::All);
    let y = MatMut::strided(&mut y[first..], n, rows, outs);
    gemm(y, Into::Add, scale, Mat::new(h, n, rank), Mat::new(b, rows, rank).t(), Threads::All);
}

/// `db` [O', R] += `scale` `dy`^T `h`, and `dh` [N, R] = `scale` `dy` `b`, for the columns of `dy` [N, O] from `first` on.
#[expect(clippy::too_many_arguments, reason = "two sums, four factors, and where they lie")]
pub fn backward_up<E: Element>(
    db: &mut [f32],
    dh: &mut [E],
    dy: &[E],
    h: &[E],
    b: &[E],
    n: usize,
    first: usize,
    scale: f32,
) {
    if n == 0 {
        return;
    }
    let (outs, rank) = (dy.len() / n, dh.len() / n);
    let rows = b.len() / rank;
    let part = Mat::strided(&dy[first..], n, rows, outs);
    gemm(MatMut::new(db, rows, rank), Into::Add, scale, part.t(), Mat::new(h, n, rank), Threads::All);
    gemm(MatMut::new(dh, n, rank), Into::Set, scale, part, Mat::new(b, rows, rank), Threads::All);
}

/// `da` [R, I] += `dh`^T `x`, and `dx` [N, I] = `dh` `a`, added to what it holds where `add`.
pub fn backward_down<E: Element>(da: &mut [f32], dx: &mut [E], add: bool, dh: &[E], x: &[E], a: &[E], n: usize) {
    if n == 0 {
        return;
    }
    let (rank, ins) = (dh.len() / n, x.len() / n);
    gemm(MatMut::new(da, rank, ins), Into::Add, 1.0, Mat::new(dh, n, rank).t(), Mat::new(x, n, ins), Threads::All);
    let a = Mat::new(a, rank, ins);
    let into = if add { Into::Add } else { Into::Set };
    gemm(MatMut::new(dx, n, ins), into, 1.0, Mat::new(dh, n, rank), a, Threads::All);
}
