//! The squared ReLU on CUDA.

use crate::device::Gpu;
use crate::error::Result;
use crate::ops::launch::elementwise;
use crate::tensor::Tensor;

/// See [`super::cpu::forward`].
///
/// # Errors
/// If the device fails.
pub fn forward(gpu: &Gpu, y: &mut Tensor, x: &Tensor) -> Result<()> {
    elementwise(gpu, "relu2_forward", y, x)
}

/// See [`super::cpu::backward`].
///
/// # Errors
/// If the device fails.
pub fn backward(gpu: &Gpu, d: &mut Tensor, x: &Tensor) -> Result<()> {
    elementwise(gpu, "relu2_backward", d, x)
}
