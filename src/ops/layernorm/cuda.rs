//! Layer normalization on CUDA.

use crate::device::Gpu;
use crate::device::launch::Arg;
use crate::error::Result;
use crate::ops::launch::{NormSaved, norm_backward, norm_forward, pointer};
use crate::tensor::Tensor;

/// See [`super::cpu::forward`]; `w` and `b` have the dtype of `x`. With `sum`, `x` is first added to it, and that is
/// normalized.
///
/// # Errors
/// If the device fails.
pub fn forward(
    gpu: &Gpu,
    y: &mut Tensor,
    (mean, rstd): (&mut Tensor, &mut Tensor),
    x: &Tensor,
    sum: Option<&mut Tensor>,
    w: &Tensor,
    b: Option<&Tensor>,
    eps: f32,
) -> Result<()> {
    let params = [Arg::Pointer(w.address()), pointer(b)];
    norm_forward(gpu, "layernorm", y, &mut [mean, rstd], x, sum, &params, eps)
}

/// The gradient of `x`; adds to those of weight and bias at the device addresses. `saved` holds mean and rstd.
///
/// # Errors
/// If memory or the device fails.
pub fn backward(gpu: &'static Gpu, saved: &NormSaved<'_>, (dw, db): (Option<u64>, Option<u64>)) -> Result<Tensor> {
    norm_backward(gpu, "layernorm", saved, &[dw, db])
}
