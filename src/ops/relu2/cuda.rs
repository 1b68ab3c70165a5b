//! The squared ReLU on CUDA.

use crate::device::Gpu;
use crate::error::Result;
use crate::ops::launch::{elementwise, elementwise_backward};
use crate::tensor::Tensor;

/// See [`super::cpu::forward`].
///
/// # Errors
/// If the device fails.
pub fn forward(gpu: &Gpu, y: &mut Tensor, x: &Tensor) -> Result<()> {
    elementwise(gpu, "relu2_forward", y, &[x.address()], &[])
}

/// The gradient of `x` from that of `y`; see [`super::cpu::backward`].
///
/// # Errors
/// If memory or the device fails.
pub fn backward(gpu: &'static Gpu, dy: Tensor, x: &Tensor) -> Result<Tensor> {
    elementwise_backward(gpu, "relu2_backward", dy, &[x.address()], &[])
}
