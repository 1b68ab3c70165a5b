//! The residual sum on CUDA.

use crate::device::Gpu;
use crate::error::Result;
use crate::ops::launch::elementwise;
use crate::tensor::Tensor;

/// `y += x`.
///
/// # Errors
/// If the device fails.
pub fn forward(gpu: &Gpu, y: &mut Tensor, x: &Tensor) -> Result<()> {
    let inputs = [x.address(), y.address()];
    elementwise(gpu, "residual_forward", y, &inputs, &[])
}
