//! RMS normalization on CUDA.

use crate::device::Gpu;
use crate::device::launch::Arg;
use crate::error::Result;
use crate::ops::launch::{NormSaved, norm_backward, norm_forward};
use crate::tensor::Tensor;

/// See [`super::cpu::forward`]; `w` has the dtype of `x`. With `sum`, `x` is first added to it, and that is normalized.
///
/// # Errors
/// If the device fails.
pub fn forward(
    gpu: &Gpu,
    y: &mut Tensor,
    rstd: &mut Tensor,
    x: &Tensor,
    sum: Option<&mut Tensor>,
    w: &Tensor,
    eps: f32,
) -> Result<()> {
    norm_forward(gpu, "rmsnorm", y, &mut [rstd], x, sum, &[Arg::Pointer(w.address())], eps)
}

/// The gradient of `x`; adds to the weight's at the device address `dw`. `saved` holds rstd.
///
/// # Errors
/// If memory or the device fails.
pub fn backward(gpu: &'static Gpu, saved: &NormSaved<'_>, dw: Option<u64>) -> Result<Tensor> {
    norm_backward(gpu, "rmsnorm", saved, &[dw])
}
