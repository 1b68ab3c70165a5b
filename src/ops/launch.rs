//! Launches that several operators share.

use crate::device::Gpu;
use crate::device::launch::{Arg, Geometry};
use crate::error::Result;
use crate::random::Mask;
use crate::tensor::{Tensor, per_element};

/// Starts `KERNEL_DTYPE(y, inputs.., extra.., elements, more..)` over the elements of `y`.
///
/// # Errors
/// If the device fails.
///
/// # Panics
/// While another tensor shares `y`'s memory.
pub fn elementwise(gpu: &Gpu, kernel: &str, y: &mut Tensor, inputs: &[u64], more: &[Arg]) -> Result<()> {
    let (len, dtype) = (y.len(), y.dtype());
    let mut arguments = vec![Arg::Pointer(y.address_mut())];
    arguments.extend(inputs.iter().map(|&input| Arg::Pointer(input)));
    arguments.push(Arg::U64(len as u64));
    arguments.extend(more);
    gpu.launch(&format!("{kernel}_{}", dtype.suffix()), per_element(len, dtype), &arguments)
}

/// The way back through an element-wise operator: `KERNEL_DTYPE(dx, dy, x, elements, more..)`. Gives `dx`, which is in
/// `dy`'s memory where nobody else needs that.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If lengths or dtypes differ.
pub fn elementwise_backward(
    gpu: &'static Gpu,
    kernel: &str,
    dy: Tensor,
    inputs: &[u64],
    more: &[Arg],
) -> Result<Tensor> {
    let gradient = dy.address();
    let (mut dx, _shared) =
        if dy.is_sole() { (dy, None) } else { (Tensor::empty(gpu.device(), dy.dtype(), dy.shape())?, Some(dy)) };
    let inputs: Vec<u64> = std::iter::once(gradient).chain(inputs.iter().copied()).collect();
    elementwise(gpu, kernel, &mut dx, &inputs, more)?;
    Ok(dx)
}

/// A device address, or null.
pub fn pointer(tensor: Option<&Tensor>) -> Arg {
    Arg::Pointer(tensor.map_or(0, Tensor::address))
}

/// Rows whose sums for the weight one block of a norm's backward makes; part of the definition, because it fixes the order.
const ROWS_OF_NORM: usize = 64;

/// What both norms' backward passes need to know of each other: how it is launched, and where its sums go.
pub struct NormBackward {
    /// Blocks, each with sums of its own.
    pub blocks: usize,
    /// The launch.
    pub geometry: Geometry,
    /// Rows of one block.
    pub rows_per_block: usize,
}

/// The launch of a norm's backward over `x` [N, C].
pub fn norm_backward(x: &Tensor) -> NormBackward {
    let blocks = x.rows().div_ceil(ROWS_OF_NORM);
    let packs = x.last().div_ceil(16 / x.dtype().size());
    let threads = packs.next_multiple_of(32).min(512);
    NormBackward { blocks, geometry: Geometry::linear(blocks, threads), rows_per_block: ROWS_OF_NORM }
}

/// The launch of a norm's forward over `x` [N, C]: a warp a row.
pub fn norm_forward(x: &Tensor) -> Geometry {
    Geometry::linear(x.rows().div_ceil(4), 128)
}

/// A mask as kernels take it: five words and the factor.
pub fn mask_arguments(mask: &Mask) -> impl Iterator<Item = Arg> {
    mask.words().into_iter().map(Arg::U32).chain(std::iter::once(Arg::F32(mask.scale)))
}
