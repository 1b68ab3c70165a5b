//! SwiGLU on CUDA.

use crate::device::Gpu;
use crate::device::launch::{Arg, Geometry};
use crate::error::Result;
use crate::tensor::Tensor;

const THREADS: usize = 256;

/// One thread for 16 bytes of a row of `y` [N, M].
fn geometry(y: &Tensor) -> Geometry {
    let packs = y.rows() * y.last().div_ceil(16 / y.dtype().size());
    Geometry::linear(packs.div_ceil(THREADS), THREADS)
}

/// See [`super::cpu::forward`].
///
/// # Errors
/// If the device fails.
pub fn forward(gpu: &Gpu, y: &mut Tensor, x: &Tensor) -> Result<()> {
    let (rows, width) = (Arg::U32(y.rows() as u32), Arg::U32(y.last() as u32));
    let arguments = [Arg::Pointer(y.address_mut()), Arg::Pointer(x.address()), rows, width];
    gpu.launch(&format!("swiglu_forward_{}", x.dtype().suffix()), geometry(y), &arguments)
}

/// See [`super::cpu::backward`].
///
/// # Errors
/// If the device fails.
pub fn backward(gpu: &Gpu, dx: &mut Tensor, dy: &Tensor, x: &Tensor) -> Result<()> {
    let (rows, width) = (Arg::U32(dy.rows() as u32), Arg::U32(dy.last() as u32));
    let arguments =
        [Arg::Pointer(dx.address_mut()), Arg::Pointer(dy.address()), Arg::Pointer(x.address()), rows, width];
    gpu.launch(&format!("swiglu_backward_{}", x.dtype().suffix()), geometry(dy), &arguments)
}
