//! Sums on a GPU that several operators share, in fixed orders: see `kernels/reduce.cu` and `kernels/bias.cu`.

use crate::device::launch::{Arg, Geometry};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::tensor::Tensor;

/// Adds the f32 losses [N] to the f64 at a device address, in a fixed order.
///
/// # Errors
/// If the device fails.
pub fn sum_losses(gpu: &Gpu, slot: u64, losses: &Tensor) -> Result<()> {
    assert_eq!(losses.dtype(), DType::F32, "losses are f32");
    let arguments = [Arg::Pointer(losses.address()), Arg::U64(losses.len() as u64), Arg::Pointer(slot)];
    gpu.launch("reduce_sum_losses", Geometry::linear(1, 256), &arguments)
}
