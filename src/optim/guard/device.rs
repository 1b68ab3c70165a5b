//! The guard on a GPU: the decisions of [`super::Guard`], taken on the device.
//!
//! The host never waits for a step's outcome: two kernels classify the gradients, decide, and leave what they decided in a
//! record that the rule's kernels read. Records stay in a ring on the device until the host asks for them. With fp16 the
//! same kernel runs the dynamic loss scale (Micikevicius et al., "Mixed precision training", 2018).

use std::ops::Range;

use super::{Class, LossScaling, Outcome, ScaleState};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::ops::gradnorm::cuda::{self as gradnorm, Decision, Kind, Partials, StepRecord, StepState};
use crate::ops::reduce;
use crate::tape::{Gradients, Params};
use crate::tensor::Tensor;

/// Steps whose records the device can hold before the host must ask for them.
pub const MAX_IN_FLIGHT: usize = 1024;

/// Judges the steps of a GPU, and keeps what it found.
pub struct DeviceGuard {
    gpu: &'static Gpu,
    clip_norm: Option<f64>,
    scaling: Option<LossScaling>,
    /// Whether the first step that is not finite ends all updates (`stability.nonfinite = "error"`).
    stop: bool,
    /// A [`StepState`]. Kernels change it behind shared views, in stream order.
    state: Tensor,
    /// A ring of [`StepRecord`]s.
    records: Tensor,
    in_flight: usize,
    /// Sums of losses, f64, one for each lane.
    lane_losses: Tensor,
    partials: Partials,
}

impl DeviceGuard {
    /// A guard for `len` gradients, at the start of a run.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(
        gpu: &'static Gpu,
        clip_norm: Option<f64>,
        scaling: Option<LossScaling>,
        stop: bool,
        len: usize,
        lanes: usize,
    ) -> Result<DeviceGuard> {
        let device = gpu.device();
        let mut guard = DeviceGuard {
            gpu,
            clip_norm,
            scaling,
            stop,
            state: Tensor::zeros(device, DType::F32, &[StepState::WORDS])?,
            records: Tensor::zeros(device, DType::U32, &[MAX_IN_FLIGHT * StepRecord::WORDS])?,
            in_flight: 0,
            lane_losses: Tensor::zeros(device, DType::U32, &[2 * lanes])?,
            partials: Partials::new(gpu, len)?,
        };
        guard.set_state(0, None)?;
        Ok(guard)
    }

    /// Sets the count of updates and the loss scale (that of a fresh run where there is none), and forgets that updates
    /// ended.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_state(&mut self, updates: u64, scale: Option<ScaleState>) -> Result<()> {
        let initial = self.scaling.map_or(1.0, |scaling| scaling.initial);
        let scale = scale.unwrap_or(ScaleState { loss_scale: initial, good_steps: 0 });
        let state = StepState {
            loss_scale: scale.loss_scale,
            good_steps: scale.good_steps,
            updates: updates as u32,
            stopped: 0,
        };
        self.state.copy_from(&Tensor::from_f32(bytemuck::cast_slice(&[state]), &[StepState::WORDS])?)
    }

    /// Updates applied, and the loss scale with fp16. It waits.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state(&self) -> Result<(u64, Option<ScaleState>)> {
        let words = self.state.to_vec_f32()?;
        let state: StepState = bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words));
        let scale = self.scaling.map(|_| ScaleState { loss_scale: state.loss_scale, good_steps: state.good_steps });
        Ok((u64::from(state.updates), scale))
    }

    /// The sums of losses, two words for each lane.
    pub fn lane_losses_mut(&mut self) -> &mut Tensor {
        &mut self.lane_losses
    }

    /// What the loss is to be multiplied with before it goes back: f32 `[1]` on the device. None but for fp16.
    pub fn loss_scale(&self) -> Option<Tensor> {
        // It is the first word of the state.
        self.scaling.map(|_| self.state.view(0, &[1]))
    }

    /// Forgets the losses of the step before.
    ///
    /// # Errors
    /// If the device fails.
    pub fn begin_step(&mut self) -> Result<()> {
        self.lane_losses.clear()
    }

    /// Adds the losses of a micro-batch, f32 `[N]` on the device, each times its weight where there are weights, to its
    /// lane's.
    ///
    /// # Errors
    /// If the device fails.
    pub fn add_losses(&mut self, lane: usize, losses: &Tensor, weights: Option<&Tensor>) -> Result<()> {
        reduce::sum_losses(self.gpu, self.lane_losses.address_mut() + 8 * lane as u64, losses, weights)
    }

    /// Sums the squares of the gradients `part`, which begins at a multiple of [`gradnorm::CHUNK`]; gives the buffers of the
    /// chunks' sums, for those of other processes' chunks to be written there.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(&mut self, grads: &Gradients, part: Range<usize>) -> Result<[&mut Tensor; 2]> {
        gradnorm::partial(self.gpu, grads.flat(), part, &mut self.partials)?;
        Ok(self.partials.buffers_mut())
    }

    /// Decides on the step that was measured; gives the device address of its record.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If [`MAX_IN_FLIGHT`] records wait already.
    pub fn decide(&mut self, lr: f64) -> Result<u64> {
        assert!(self.in_flight < MAX_IN_FLIGHT, "records of steps that nobody asked for");
        let record = self.records.address_mut() + (self.in_flight * StepRecord::WORDS * 4) as u64;
        let decision = Decision {
            lr,
            clip_norm: self.clip_norm.map(|clip| clip as f32),
            scaling: self.scaling.map(|scaling| (scaling.min, scaling.max, scaling.growth_interval)),
            stop: self.stop,
        };
        let losses = (self.lane_losses.address(), self.lane_losses.len() / 2);
        gradnorm::finish(self.gpu, &mut self.partials, losses, self.state.address(), record, &decision)?;
        self.in_flight += 1;
        Ok(record)
    }

    /// The sum of losses and the outcome of each step since the last call, in order. It waits for them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn finished(&mut self, params: &Params) -> Result<Vec<(f64, Outcome)>> {
        let used = self.records.view(0, &[self.in_flight * StepRecord::WORDS]);
        let words = used.to_device(crate::device::Device::Cpu)?;
        self.in_flight = 0;
        let records = words.u32().chunks_exact(StepRecord::WORDS);
        Ok(records
            .map(|words| bytemuck::pod_read_unaligned(bytemuck::cast_slice(words)))
            .map(|record: StepRecord| {
                let class = match Kind::of(record.kind) {
                    Kind::Finite => Class::Finite,
                    Kind::Clipped => Class::Clipped,
                    Kind::Overflow => Class::Overflow,
                    Kind::NonFinite => {
                        match params.layout().owner(record.first_bad as usize + params.layout().frozen()) {
                            Some(id) => Class::NonFinite(id),
                            None => Class::Overflow,
                        }
                    }
                    Kind::LossNonFinite => Class::LossNonFinite,
                    Kind::Backoff => Class::Backoff,
                    Kind::Stopped => Class::Stopped,
                };
                (record.loss_sum, Outcome { class, norm: record.norm, norm_clipped: record.norm_clipped })
            })
            .collect())
    }
}
