//! GELU on CUDA.

use super::Kind;
use crate::device::Gpu;
use crate::error::Result;
use crate::ops::launch::elementwise;
use crate::tensor::Tensor;

/// See [`super::cpu::forward`].
///
/// # Errors
/// If the device fails.
pub fn forward(gpu: &Gpu, y: &mut Tensor, x: &Tensor, kind: Kind) -> Result<()> {
    let kernel = match kind {
        Kind::Tanh => "gelu_tanh_forward",
        Kind::Erf => "gelu_erf_forward",
    };
    elementwise(gpu, kernel, y, x)
}

/// See [`super::cpu::backward`].
///
/// # Errors
/// If the device fails.
pub fn backward(gpu: &Gpu, d: &mut Tensor, x: &Tensor, kind: Kind) -> Result<()> {
    let kernel = match kind {
        Kind::Tanh => "gelu_tanh_backward",
        Kind::Erf => "gelu_erf_backward",
    };
    elementwise(gpu, kernel, d, x)
}
