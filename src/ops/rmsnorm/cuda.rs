//! RMS normalization on CUDA.

use crate::device::launch::Arg;
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::ops::launch::{NormBackward, norm_backward, norm_forward, pointer};
use crate::ops::reduce;
use crate::tensor::Tensor;

/// See [`super::cpu::forward`]; `w` has the dtype of `x`.
///
/// # Errors
/// If the device fails.
pub fn forward(gpu: &Gpu, y: &mut Tensor, rstd: &mut Tensor, x: &Tensor, w: &Tensor, eps: f32) -> Result<()> {
    let arguments = [
        Arg::Pointer(y.address_mut()),
        // No sum with another input.
        Arg::Pointer(0),
        Arg::Pointer(rstd.address_mut()),
        Arg::Pointer(x.address()),
        Arg::Pointer(0),
        Arg::Pointer(w.address()),
        Arg::F32(eps),
        Arg::U32(x.rows() as u32),
        Arg::U32(x.last() as u32),
    ];
    gpu.launch(&format!("rmsnorm_forward_{}", x.dtype().suffix()), norm_forward(x), &arguments)
}

/// The gradient of `x`, with what came back so far added; adds to the weight's at the device address `dw`.
///
/// # Errors
/// If memory or the device fails.
pub fn backward(
    gpu: &'static Gpu,
    dy: &Tensor,
    so_far: Option<&Tensor>,
    dw: u64,
    rstd: &Tensor,
    x: &Tensor,
    w: &Tensor,
) -> Result<Tensor> {
    let width = x.last();
    let NormBackward { blocks, geometry, rows_per_block } = norm_backward(x);
    let mut dx = Tensor::empty(gpu.device(), x.dtype(), x.shape())?;
    let mut partial = Tensor::empty(gpu.device(), DType::F32, &[blocks, width])?;
    let sums = partial.address_mut();
    let arguments = [
        Arg::Pointer(dx.address_mut()),
        Arg::Pointer(sums),
        Arg::Pointer(dy.address()),
        Arg::Pointer(x.address()),
        Arg::Pointer(w.address()),
        Arg::Pointer(rstd.address()),
        pointer(so_far),
        Arg::U32(x.rows() as u32),
        Arg::U32(width as u32),
        Arg::U32(rows_per_block as u32),
    ];
    gpu.launch(&format!("rmsnorm_backward_{}", x.dtype().suffix()), geometry, &arguments)?;
    reduce::add_partial(gpu, dw, sums, blocks, width, width)?;
    Ok(dx)
}
