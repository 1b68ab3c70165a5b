//! The low-rank correction on CUDA: matrix products alone, no kernel of our own.

use crate::device::launch::{GpuMatrix, Product};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::tensor::Tensor;

fn matrix(address: u64, like: &Tensor) -> GpuMatrix {
    GpuMatrix::new(address, like.dtype(), like.rows(), like.last())
}

/// The columns of `like` from `first` on, `rows` of them.
fn columns(address: u64, like: &Tensor, first: usize, rows: usize) -> GpuMatrix {
    let address = address + (first * like.dtype().size()) as u64;
    GpuMatrix::new(address, like.dtype(), like.rows(), rows).with_stride(like.last())
}

/// See [`super::cpu::forward`].
///
/// # Errors
/// If the device fails.
pub fn forward(
    gpu: &Gpu,
    y: &mut Tensor,
    h: &mut Tensor,
    x: &Tensor,
    (a, b): (&Tensor, &Tensor),
    first: usize,
    scale: f32,
) -> Result<()> {
    if y.is_empty() {
        return Ok(());
    }
    let thin = matrix(h.address_mut(), h);
    gpu.driver().multiply(&Product::set(thin, matrix(x.address(), x), matrix(a.address(), a).t()))?;
    let out = columns(y.address_mut(), y, first, b.rows());
    gpu.driver().multiply(&Product::add(out, thin, matrix(b.address(), b).t()).times(scale))
}

/// What the way back reads besides the gradient of its output.
pub struct Saved<'t> {
    /// The input [N, I].
    pub x: &'t Tensor,
    /// `x A^T` [N, R].
    pub h: &'t Tensor,
    /// A [R, I].
    pub a: &'t Tensor,
    /// B [O', R].
    pub b: &'t Tensor,
}

/// Writes `dx` (or adds to it), uses `dh` as room, and adds to the gradients of A and B at the device addresses `da` and
/// `db`; see [`super::cpu`].
///
/// # Errors
/// If the device fails.
pub fn backward(
    gpu: &Gpu,
    (dx, add): (&mut Tensor, bool),
    dh: &mut Tensor,
    (da, db): (u64, u64),
    dy: &Tensor,
    saved: &Saved<'_>,
    (first, scale): (usize, f32),
) -> Result<()> {
    if dy.is_empty() {
        return Ok(());
    }
    let Saved { x, h, a, b } = *saved;
    let part = columns(dy.address(), dy, first, b.rows());
    let sum = |address, like: &Tensor| GpuMatrix::new(address, DType::F32, like.rows(), like.last());
    gpu.driver().multiply(&Product::add(sum(db, b), part.t(), matrix(h.address(), h)).times(scale))?;
    let thin = matrix(dh.address_mut(), dh);
    gpu.driver().multiply(&Product::set(thin, part, matrix(b.address(), b)).times(scale))?;
    gpu.driver().multiply(&Product::add(sum(da, a), thin.t(), matrix(x.address(), x)))?;
    let (out, right) = (matrix(dx.address_mut(), dx), matrix(a.address(), a));
    let product = if add { Product::add(out, thin, right) } else { Product::set(out, thin, right) };
    gpu.driver().multiply(&product)
}
