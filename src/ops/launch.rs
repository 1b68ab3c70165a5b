//! Launches that several operators share.

use crate::device::launch::{Arg, Geometry};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::ops::reduce;
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

/// What stands before the new tokens of each sequence of a batch.
#[derive(Clone, Copy, Debug)]
pub enum Past<'p> {
    /// So many tokens before each.
    Same(usize),
    /// Its own number for each: u32 `[B]` on the device, [`ABSENT`] for a sequence without a new token, whose row is
    /// computed with the others and means nothing.
    Own(&'p Tensor),
}

/// No new token: see [`Past::Own`].
pub const ABSENT: u32 = u32::MAX;

impl Past<'_> {
    /// The two arguments of a kernel: one number for all, and the list of each one's own (or null).
    pub fn arguments(&self) -> (Arg, Arg) {
        match self {
            Past::Same(past) => (Arg::U32(*past as u32), Arg::Pointer(0)),
            Past::Own(pasts) => (Arg::U32(0), Arg::Pointer(pasts.address())),
        }
    }
}

/// A device address, or null.
pub fn pointer(tensor: Option<&Tensor>) -> Arg {
    Arg::Pointer(tensor.map_or(0, Tensor::address))
}

/// Starts a norm's forward, `KERNEL_forward_DTYPE`, over `x` [N, C]: a warp a row. With `sum` [N, C], `x` is first added to
/// it, and that is what is normalized. `stats` are the f32 `[N]` that the norm keeps of each row, `params` its weight and
/// what else it has.
///
/// # Errors
/// If the device fails.
pub fn norm_forward(
    gpu: &Gpu,
    kernel: &str,
    y: &mut Tensor,
    stats: &mut [&mut Tensor],
    x: &Tensor,
    sum: Option<&mut Tensor>,
    params: &[Arg],
    eps: f32,
) -> Result<()> {
    // The kernels read and write the sum in place; without one the pointers are null.
    let sum = Arg::Pointer(sum.map_or(0, Tensor::address_mut));
    let mut arguments = vec![Arg::Pointer(y.address_mut()), sum];
    arguments.extend(stats.iter_mut().map(|stat| Arg::Pointer(stat.address_mut())));
    arguments.extend([Arg::Pointer(x.address()), sum]);
    arguments.extend(params);
    arguments.extend([Arg::F32(eps), Arg::U32(x.rows() as u32), Arg::U32(x.last() as u32)]);
    let geometry = Geometry::linear(x.rows().div_ceil(4), 128);
    gpu.launch(&format!("{kernel}_forward_{}", x.dtype().suffix()), geometry, &arguments)
}

/// What a norm's backward reads.
pub struct NormSaved<'t> {
    /// The gradient of the output.
    pub dy: &'t Tensor,
    /// What has already come back for `x` along the residual stream, to be added.
    pub so_far: Option<&'t Tensor>,
    /// The input [N, C].
    pub x: &'t Tensor,
    /// The weight `[C]`.
    pub w: &'t Tensor,
    /// What the forward kept of each row.
    pub stats: &'t [&'t Tensor],
}

/// A norm's backward, `KERNEL_backward_DTYPE`: gives the gradient of `x`, and adds the kernel's sums over rows to the f32
/// gradients `[C]` at the device addresses `sums`; one that is not wanted is None.
///
/// # Errors
/// If memory or the device fails.
pub fn norm_backward(gpu: &'static Gpu, kernel: &str, saved: &NormSaved<'_>, sums: &[Option<u64>]) -> Result<Tensor> {
    /// Rows whose sums one block makes; part of the definition, because it fixes the order.
    const ROWS: usize = 64;
    let NormSaved { dy, so_far, x, w, stats } = saved;
    let (width, blocks) = (x.last(), x.rows().div_ceil(ROWS));
    let stride = sums.len() * width;
    let mut dx = Tensor::empty(gpu.device(), x.dtype(), x.shape())?;
    let mut partial = Tensor::empty(gpu.device(), DType::F32, &[blocks, stride])?;
    let first = partial.address_mut();
    let mut arguments = vec![Arg::Pointer(dx.address_mut()), Arg::Pointer(first)];
    arguments.extend([dy, x, w].map(|tensor| Arg::Pointer(tensor.address())));
    arguments.extend(stats.iter().map(|stat| Arg::Pointer(stat.address())));
    arguments.push(pointer(*so_far));
    arguments.extend([x.rows(), width, ROWS].map(|number| Arg::U32(number as u32)));
    let packs = width.div_ceil(16 / x.dtype().size());
    let geometry = Geometry::linear(blocks, packs.next_multiple_of(32).min(512));
    gpu.launch(&format!("{kernel}_backward_{}", x.dtype().suffix()), geometry, &arguments)?;
    for (i, sum) in sums.iter().enumerate() {
        if let Some(sum) = sum {
            let part = first + (i * width * DType::F32.size()) as u64;
            reduce::add_partial(gpu, *sum, part, blocks, width, stride)?;
        }
    }
    Ok(dx)
}

/// A mask as kernels take it: five words and the factor.
pub fn mask_arguments(mask: &Mask) -> impl Iterator<Item = Arg> {
    mask.words().into_iter().map(Arg::U32).chain(std::iter::once(Arg::F32(mask.scale)))
}
