//! The fused classifier on CUDA: logits of a chunk of rows by a matrix product, one kernel that turns them into losses and
//! their own gradient, and the two products of the way back.

use super::Scale;
use crate::device::launch::{Arg, Geometry, GpuMatrix, Product};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::tensor::Tensor;

/// Logits of one chunk, at most: 256M elements are 512 MiB in bf16. Large, because each chunk adds to the whole gradient
/// of the weight; fixed, because it decides the order of that sum.
const CHUNK_ELEMENTS: usize = 256 << 20;
/// Rows start at addresses of 16 bytes.
const STRIDE: usize = 8;
const MAX_THREADS: usize = 1024;

/// Distance of rows of logits, in elements.
fn stride(v: usize) -> usize {
    v.next_multiple_of(STRIDE)
}

fn chunk_rows(v: usize) -> usize {
    (CHUNK_ELEMENTS / stride(v) / 128 * 128).max(128)
}

/// Elements of the buffer that holds a chunk's logits, for `n` rows and a vocabulary of `v`: the memory model counts it.
pub fn buffer_elements(n: usize, v: usize) -> usize {
    chunk_rows(v).min(n) * stride(v)
}

/// Where the gradients go.
pub struct Back<'t> {
    /// The gradient of `x`, written.
    pub dx: &'t mut Tensor,
    /// The device address of the gradient of `w`, f32, added to, where it is wanted.
    pub dw: Option<u64>,
    /// What each row's loss counts, f32 `[N]` on the device, where not all count 1.
    pub weights: Option<&'t Tensor>,
    /// The factor of both.
    pub scale: Scale<'t>,
}

/// See [`super::cpu::forward`] and [`super::cpu::forward_backward`]: `w` [R, C] has `v` rows of the vocabulary and
/// zeros behind them.
///
/// # Errors
/// If memory or the device fails.
pub fn forward(
    gpu: &'static Gpu,
    losses: &mut Tensor,
    x: &Tensor,
    (w, v): (&Tensor, usize),
    targets: &[u32],
    mut back: Option<Back<'_>>,
) -> Result<()> {
    let (n, c, extent, dtype) = (targets.len(), x.last(), w.shape()[0], x.dtype());
    if n == 0 {
        return Ok(());
    }
    let targets = Tensor::from_u32(targets, &[n])?.to_device(gpu.device())?;
    let (step, stride) = (chunk_rows(extent), stride(extent));
    let mut logits = Tensor::empty(gpu.device(), dtype, &[buffer_elements(n, extent)])?;
    let (losses, logits) = (losses.address_mut(), logits.address_mut());
    let weight = GpuMatrix::new(w.address(), dtype, extent, c);
    for first in (0..n).step_by(step) {
        let rows = step.min(n - first);
        let at = |address: u64, width: usize, size: usize| address + (first * width * size) as u64;
        let hidden = GpuMatrix::new(at(x.address(), c, dtype.size()), dtype, rows, c);
        let chunk = GpuMatrix::new(logits, dtype, rows, extent).with_stride(stride);
        gpu.driver().multiply(&Product::set(chunk, hidden, weight.t()))?;
        let mut arguments = vec![
            Arg::Pointer(at(losses, 1, 4)),
            Arg::Pointer(logits),
            Arg::Pointer(at(targets.address(), 1, 4)),
            Arg::U32(v as u32),
            Arg::U32(stride as u32),
        ];
        let what = match &back {
            None => "loss",
            Some(Back { scale, weights, .. }) => {
                arguments.push(Arg::Pointer(weights.map_or(0, |weights| at(weights.address(), 1, 4))));
                arguments.push(Arg::F32(scale.by));
                arguments.push(Arg::Pointer(scale.loss_scale.map_or(0, Tensor::address)));
                "gradient"
            }
        };
        // One block for a row; a small vocabulary does not fill a large block.
        let threads = (stride * dtype.size() / 16).next_multiple_of(32).min(MAX_THREADS);
        gpu.launch(&format!("classifier_{what}_{}", dtype.suffix()), Geometry::linear(rows, threads), &arguments)?;
        if let Some(Back { dx, dw, .. }) = &mut back {
            let dx = GpuMatrix::new(at(dx.address_mut(), c, dtype.size()), dtype, rows, c);
            gpu.driver().multiply(&Product::set(dx, chunk, weight))?;
            if let Some(dw) = *dw {
                gpu.driver().multiply(&Product::add(GpuMatrix::new(dw, DType::F32, extent, c), chunk.t(), hidden))?;
            }
        }
    }
    Ok(())
}
