//! Norm, classification and decision of a step on CUDA, without a word to the host: see `kernels/gradnorm.cu`.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::device::launch::{Arg, Geometry};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::tensor::Tensor;

/// Gradient elements of one block; part of the definition, because it fixes the order of the sum.
pub const CHUNK: usize = 16_384;
const THREADS: usize = 256;

/// What lives from step to step, as the kernels lay it out (`kernels/step.cuh`).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct StepState {
    /// What the loss is multiplied with before it goes back.
    pub loss_scale: f32,
    /// Applied steps since the scale last changed.
    pub good_steps: u32,
    /// Updates applied so far.
    pub updates: u32,
    /// Not 0 once a step that was not finite has ended all updates.
    pub stopped: u32,
}

impl StepState {
    /// Its size in 32-bit words.
    pub const WORDS: usize = size_of::<StepState>() / 4;
}

/// What one step was, as the kernels lay it out.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct StepRecord {
    /// The sum of the step's token losses.
    pub loss_sum: f64,
    /// The flat index of the first gradient element that is not finite.
    pub first_bad: u64,
    /// The learning rate.
    pub lr: f64,
    /// Global L2 norm before clipping, the loss scale taken out.
    pub norm: f32,
    /// The norm after clipping.
    pub norm_clipped: f32,
    /// A [`Kind`].
    pub kind: u32,
    /// 1 if the update was applied.
    pub applied: u32,
    /// What gradients were multiplied with: the clip factor and the inverse of the loss scale.
    pub grad_scale: f32,
    /// The loss scale of the step.
    pub loss_scale: f32,
    /// Updates applied after the step, this one included where it was applied.
    pub updates: u32,
    /// Nothing: the size is a multiple of eight bytes.
    pub unused: u32,
}

impl StepRecord {
    /// Its size in 32-bit words.
    pub const WORDS: usize = size_of::<StepRecord>() / 4;
}

/// What kind of step the device found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Finite, within the clip norm.
    Finite,
    /// Finite and scaled down.
    Clipped,
    /// Finite elements whose squares overflow.
    Overflow,
    /// An element that is not finite.
    NonFinite,
    /// A loss that is not finite.
    LossNonFinite,
    /// An overflow that fp16's loss scale answers for: the scale was halved.
    Backoff,
    /// Updates had ended before.
    Stopped,
}

impl Kind {
    /// The kind of a record.
    pub fn of(kind: u32) -> Kind {
        match kind {
            0 => Kind::Finite,
            1 => Kind::Clipped,
            2 => Kind::Overflow,
            3 => Kind::NonFinite,
            4 => Kind::LossNonFinite,
            5 => Kind::Backoff,
            _ => Kind::Stopped,
        }
    }
}

/// The numbers that the decision needs.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// Learning rate.
    pub lr: f64,
    /// The norm to clip to.
    pub clip_norm: Option<f32>,
    /// fp16's least and greatest scale, and the steps after which it doubles.
    pub scaling: Option<(f32, f32, u32)>,
    /// Whether a step that is not finite ends all updates.
    pub stop: bool,
}

/// Room for the first stage's results.
pub struct Partials {
    sums: Tensor,
    bad: Tensor,
}

impl Partials {
    /// Room for an arena of `len` elements.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(gpu: &Gpu, len: usize) -> Result<Partials> {
        let blocks = len.div_ceil(CHUNK);
        let sums = Tensor::empty(gpu.device(), DType::F32, &[blocks])?;
        Ok(Partials { sums, bad: Tensor::empty(gpu.device(), DType::U32, &[2 * blocks])? })
    }

    /// The sums of squares, one for each chunk, and the first element that is not finite, two words for each: for those of
    /// other processes' chunks to be written there.
    pub fn buffers_mut(&mut self) -> [&mut Tensor; 2] {
        [&mut self.sums, &mut self.bad]
    }
}

/// The first stage for the chunks of `part`, which starts at a multiple of [`CHUNK`], and ends at one or at the end of
/// `grads`.
///
/// # Errors
/// If the device fails.
pub fn partial(gpu: &Gpu, grads: &Tensor, part: Range<usize>, partials: &mut Partials) -> Result<()> {
    let first = part.start / CHUNK;
    debug_assert!(part.start.is_multiple_of(CHUNK));
    let arguments = [
        Arg::Pointer(grads.address()),
        Arg::U64(grads.len() as u64),
        Arg::U32(first as u32),
        Arg::Pointer(partials.sums.address_mut()),
        Arg::Pointer(partials.bad.address_mut()),
    ];
    gpu.launch("gradnorm_partial", Geometry::linear(part.end.div_ceil(CHUNK) - first, THREADS), &arguments)
}

/// Classifies the gradients whose first stage is in `partials`, decides, and writes state and record (device addresses).
/// `losses` are the lanes' sums: their address and number.
///
/// # Errors
/// If the device fails.
pub fn finish(
    gpu: &Gpu,
    partials: &mut Partials,
    losses: (u64, usize),
    state: u64,
    record: u64,
    with: &Decision,
) -> Result<()> {
    let blocks = partials.sums.len();
    let (sums, bad) = (partials.sums.address_mut(), partials.bad.address_mut());
    let (min_scale, max_scale, growth_interval) = with.scaling.unwrap_or((1.0, 1.0, u32::MAX));
    let arguments = [
        Arg::Pointer(sums),
        Arg::Pointer(bad),
        Arg::U32(blocks as u32),
        Arg::Pointer(losses.0),
        Arg::U32(losses.1 as u32),
        Arg::Pointer(state),
        Arg::Pointer(record),
        Arg::F64(with.lr),
        Arg::F32(with.clip_norm.unwrap_or(0.0)),
        Arg::U32(u32::from(with.scaling.is_some()) | u32::from(with.stop) << 1),
        Arg::F32(min_scale),
        Arg::F32(max_scale),
        Arg::U32(growth_interval),
    ];
    gpu.launch("gradnorm_finish", Geometry::linear(1, THREADS), &arguments)
}
