//! The linear layer on CUDA: three matrix products (the bias is added inside the first) and a column sum.

use crate::device::launch::{GpuMatrix, Product};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::ops::reduce;
use crate::tensor::Tensor;

/// A tensor [.., C] as the matrix of its rows.
pub(super) fn matrix(address: u64, like: &Tensor) -> GpuMatrix {
    GpuMatrix::new(address, like.dtype(), like.rows(), like.last())
}

/// See [`super::cpu::forward`]; `b` has the dtype of `y`.
///
/// # Errors
/// If the device fails.
pub fn forward(gpu: &Gpu, y: &mut Tensor, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<()> {
    if y.is_empty() {
        return Ok(());
    }
    let out = matrix(y.address_mut(), y);
    let product = Product::set(out, matrix(x.address(), x), matrix(w.address(), w).t());
    gpu.driver().multiply(&Product { bias: b.map(Tensor::address), ..product })
}

/// Writes `dx`, and adds to the gradients at the device addresses `dw` and `db` that are wanted; see [`super::cpu`].
///
/// # Errors
/// If memory or the device fails.
pub fn backward(
    gpu: &'static Gpu,
    dx: &mut Tensor,
    (dw, db): (Option<u64>, Option<u64>),
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
) -> Result<()> {
    if dy.is_empty() {
        return Ok(());
    }
    let gradient = matrix(dy.address(), dy);
    let out = matrix(dx.address_mut(), dx);
    gpu.driver().multiply(&Product::set(out, gradient, matrix(w.address(), w)))?;
    backward_params(gpu, (dw, db), dy, x, w)
}

/// Adds to the gradients at the device addresses `dw` and `db` that are wanted.
///
/// # Errors
/// If memory or the device fails.
pub fn backward_params(
    gpu: &'static Gpu,
    (dw, db): (Option<u64>, Option<u64>),
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
) -> Result<()> {
    if dy.is_empty() {
        return Ok(());
    }
    if let Some(dw) = dw {
        let sum = GpuMatrix::new(dw, DType::F32, w.rows(), w.last());
        gpu.driver().multiply(&Product::add(sum, matrix(dy.address(), dy).t(), matrix(x.address(), x)))?;
    }
    match db {
        Some(db) => reduce::add_columns(gpu, db, dy),
        None => Ok(()),
    }
}
