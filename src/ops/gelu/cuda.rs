//! GELU on CUDA.

use super::Kind;
use crate::device::Gpu;
use crate::device::launch::Arg;
use crate::error::Result;
use crate::ops::launch::{elementwise, elementwise_backward};
use crate::tensor::Tensor;

/// The kernels can add the linear layer's bias themselves; the product before has done so.
const NO_BIAS: u64 = 0;

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Tanh => "tanh",
        Kind::Erf => "erf",
    }
}

/// See [`super::cpu::forward`].
///
/// # Errors
/// If the device fails.
pub fn forward(gpu: &Gpu, y: &mut Tensor, x: &Tensor, kind: Kind) -> Result<()> {
    let kernel = format!("gelu_{}_forward", name(kind));
    elementwise(gpu, &kernel, y, &[x.address(), NO_BIAS], &[Arg::U32(x.last() as u32)])
}

/// The gradient of `x` from that of `y`; see [`super::cpu::backward`].
///
/// # Errors
/// If memory or the device fails.
pub fn backward(gpu: &'static Gpu, dy: Tensor, x: &Tensor, kind: Kind) -> Result<Tensor> {
    let kernel = format!("gelu_{}_backward", name(kind));
    elementwise_backward(gpu, &kernel, dy, &[x.address(), NO_BIAS], &[Arg::U32(x.last() as u32)])
}
