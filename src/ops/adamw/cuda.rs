//! AdamW on CUDA: one pass over the arena that also writes the compute copy. The learning rate, what gradients are
//! multiplied with, the number of the update, and whether it runs at all, stand in the step's record on the device; a
//! launch before the pass makes AdamW's own factors of them.

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
/// 32-bit words of the factors of a step, as `kernels/adamw.cu` lays them out.
const FACTORS: usize = 5;

/// AdamW's numbers that stay the same for a whole run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// What the updates of a run need on the device besides the moments.
#[derive(Debug)]
pub struct Prepared {
    /// One byte for each [`ALIGN`] elements of what is trained of the arena: whether weight decay acts there.
    decays: Tensor,
    /// The factors of the step at hand.
    factors: Tensor,
}

impl Prepared {
    /// Prepares for parameters of this layout.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(gpu: &Gpu, layout: &Layout) -> Result<Prepared> {
        let factors = Tensor::zeros(gpu.device(), DType::F32, &[FACTORS])?;
        Ok(Prepared { decays: decays(layout)?.to_device(gpu.device())?, factors })
    }
}

/// One byte for each [`ALIGN`] elements of what is trained of the arena, packed four to a word: 1 where weight decay acts.
fn decays(layout: &Layout) -> Result<Tensor> {
    let mut bytes = vec![0u8; (layout.trained() / ALIGN).next_multiple_of(4)];
    for (_, range) in layout.trained_infos().filter(|(info, _)| info.decays()) {
        bytes[range.start / ALIGN..range.end.div_ceil(ALIGN)].fill(1);
    }
    let words: Vec<u32> =
        bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]])).collect();
    Tensor::from_u32(&words, &[words.len()])
}

/// Starts the update of the elements `part` of what is trained, whose moments `m` and `v` hold; `record` is the device
/// address of the step's record.
///
/// # Errors
/// If the device fails.
pub fn update(
    gpu: &Gpu,
    params: &mut Params,
    grads: &Gradients,
    (m, v): (&mut Tensor, &mut Tensor),
    prepared: &mut Prepared,
    part: Range<usize>,
    record: u64,
    rates: Rates,
) -> Result<()> {
    let (first, frozen, len) = (part.start, params.layout().frozen(), part.len());
    assert!(first.is_multiple_of(ALIGN) && part.end <= params.layout().trained(), "a part {part:?} of the gradients");
    let Rates { beta1, beta2, eps, weight_decay } = rates;
    let factors = prepared.factors.address_mut();
    let arguments =
        [Arg::Pointer(record), Arg::Pointer(factors), Arg::F64(beta1), Arg::F64(beta2), Arg::F64(weight_decay)];
    gpu.launch("adamw_factors", Geometry::linear(1, 32), &arguments)?;
    let dtype = params.compute_dtype();
    let (flat, compute) = params.buffers_mut();
    let offset = |first: usize, dtype: DType| (first * dtype.size()) as u64;
    let arguments = [
        Arg::Pointer(flat.address_mut() + offset(frozen + first, DType::F32)),
        Arg::Pointer(grads.flat().address() + offset(first, DType::F32)),
        Arg::Pointer(m.address_mut()),
        Arg::Pointer(v.address_mut()),
        Arg::Pointer(compute.map_or(0, |compute| compute.address_mut() + offset(frozen + first, dtype))),
        Arg::Pointer(prepared.decays.address() + (first / ALIGN) as u64),
        Arg::U64(len as u64),
        Arg::Pointer(factors),
        Arg::F32(beta1 as f32),
        Arg::F32(beta2 as f32),
        Arg::F32((1.0 - beta1) as f32),
        Arg::F32((1.0 - beta2) as f32),
        Arg::F32(eps as f32),
    ];
    let blocks = len.div_ceil(THREADS * PER_THREAD);
    gpu.launch(&format!("adamw_update_{}", dtype.suffix()), Geometry::linear(blocks, THREADS), &arguments)
}
