//! Sums on a GPU that several operators share, in fixed orders: see `kernels/reduce.cu` and `kernels/bias.cu`.

use crate::device::launch::{Arg, Geometry};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::tensor::Tensor;

/// Rows of one block of column sums; part of the definition, because it fixes the order.
const ROWS: usize = 256;
const THREADS: usize = 1024;

/// Adds the f32 losses `[N]`, each times its weight where there are weights `[N]`, to the f64 at a device address, in a
/// fixed order.
///
/// # Errors
/// If the device fails.
pub fn sum_losses(gpu: &Gpu, slot: u64, losses: &Tensor, weights: Option<&Tensor>) -> Result<()> {
    assert_eq!(losses.dtype(), DType::F32, "losses are f32");
    assert!(weights.is_none_or(|weights| weights.len() == losses.len()), "a weight for each loss");
    let arguments = [
        Arg::Pointer(losses.address()),
        Arg::Pointer(weights.map_or(0, Tensor::address)),
        Arg::U64(losses.len() as u64),
        Arg::Pointer(slot),
    ];
    gpu.launch("reduce_sum_losses", Geometry::linear(1, THREADS), &arguments)
}

/// Adds the column sums of `rows` [N, C] to the f32 gradient `[C]` at a device address, in a fixed order.
///
/// # Errors
/// If memory or the device fails.
pub fn add_columns(gpu: &'static Gpu, sum: u64, rows: &Tensor) -> Result<()> {
    let (width, blocks) = (rows.last(), rows.rows().div_ceil(ROWS));
    let mut partial = Tensor::empty(gpu.device(), DType::F32, &[blocks, width])?;
    let sums = partial.address_mut();
    let arguments = [
        Arg::Pointer(sums),
        Arg::Pointer(rows.address()),
        Arg::U32(rows.rows() as u32),
        Arg::U32(width as u32),
        Arg::U32(ROWS as u32),
    ];
    // A warp has a pack of 16 bytes for each lane.
    let columns = 32 * 16 / rows.dtype().size();
    let grid = [width.div_ceil(columns) as u32, blocks as u32, 1];
    let geometry = Geometry { grid, block: [256, 1, 1], shared_bytes: 0 };
    gpu.launch(&format!("bias_gradient_{}", rows.dtype().suffix()), geometry, &arguments)?;
    add_partial(gpu, sum, sums, blocks, width, width)
}

/// Adds the sums over `blocks` rows of f32 partial sums, `stride` elements apart, to the gradient `[width]` at a device
/// address, in order.
///
/// # Errors
/// If the device fails.
pub fn add_partial(gpu: &Gpu, sum: u64, partial: u64, blocks: usize, width: usize, stride: usize) -> Result<()> {
    let arguments = [
        Arg::Pointer(sum),
        Arg::Pointer(partial),
        Arg::U32(blocks as u32),
        Arg::U32(width as u32),
        Arg::U32(stride as u32),
    ];
    gpu.launch("reduce_columns", Geometry::linear(width.div_ceil(32), THREADS), &arguments)
}
