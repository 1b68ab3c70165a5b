//! AdamW on CUDA: one pass over the arena that also writes the compute copy. What it multiplies with, and whether it runs
//! at all, stands in the step's record on the device.

use std::ops::Range;

use crate::device::launch::{Arg, Geometry};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::tape::arena::{ALIGN, Layout};
use crate::tape::{Gradients, Params};
use crate::tensor::Tensor;

const THREADS: usize = 256;
/// Elements of one thread.
const PER_THREAD: usize = 8;

/// One byte for each [`ALIGN`] elements of what is trained of the arena, packed four to a word: 1 where weight decay acts.
///
/// # Errors
/// If memory cannot be had.
pub fn decays(layout: &Layout) -> Result<Tensor> {
    let mut bytes = vec![0u8; (layout.trained() / ALIGN).next_multiple_of(4)];
    for (_, range) in layout.trained_infos().filter(|(info, _)| info.decays()) {
        bytes[range.start / ALIGN..range.end.div_ceil(ALIGN)].fill(1);
    }
    let words: Vec<u32> =
        bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]])).collect();
    Tensor::from_u32(&words, &[words.len()])
}

/// Starts the update of the elements `part` of the arena, whose moments `m` and `v` hold; `record` is the device address of the step's record, and `rates` are beta1, beta2 and eps.
///
/// # Errors
/// If the device fails.
pub fn update(
    gpu: &Gpu,
    params: &mut Params,
    grads: &Gradients,
    (m, v): (&mut Tensor, &mut Tensor),
    decays: &Tensor,
    part: Range<usize>,
    record: u64,
    (beta1, beta2, eps): (f64, f64, f64),
) -> Result<()> {
    let (first, frozen, len) = (part.start, params.layout().frozen(), part.len());
    assert!(first.is_multiple_of(ALIGN) && part.end <= params.layout().trained(), "a part {part:?} of the gradients");
    let dtype = params.compute_dtype();
    let (flat, compute) = params.buffers_mut();
    let offset = |first: usize, dtype: DType| (first * dtype.size()) as u64;
    let arguments = [
        Arg::Pointer(flat.address_mut() + offset(frozen + first, DType::F32)),
        Arg::Pointer(grads.flat().address() + offset(first, DType::F32)),
        Arg::Pointer(m.address_mut()),
        Arg::Pointer(v.address_mut()),
        Arg::Pointer(compute.map_or(0, |compute| compute.address_mut() + offset(frozen + first, dtype))),
        Arg::Pointer(decays.address() + (first / ALIGN) as u64),
        Arg::U64(len as u64),
        Arg::Pointer(record),
        Arg::F32(beta1 as f32),
        Arg::F32(beta2 as f32),
        Arg::F32((1.0 - beta1) as f32),
        Arg::F32((1.0 - beta2) as f32),
        Arg::F32(eps as f32),
    ];
    let blocks = len.div_ceil(THREADS * PER_THREAD);
    gpu.launch(&format!("adamw_update_{}", dtype.suffix()), Geometry::linear(blocks, THREADS), &arguments)
}
