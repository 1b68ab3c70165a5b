//! The optimizer on a GPU: the same decisions as [`super::Optimizer`], taken on the device.
//!
//! The host never waits for a step's outcome: two kernels classify the gradients, decide, and leave what they decided in a
//! record that the AdamW kernel reads. Records stay in a ring on the device until the host asks for them. With fp16 the
//! same kernel runs the dynamic loss scale (Micikevicius et al., "Mixed precision training", 2018).

use std::ops::Range;

use super::guard::{Class, LossScaling, Outcome, ScaleState};
use super::optimizer::Hyper;
use crate::device::{DType, Gpu};
use crate::error::{Error, Result};
use crate::ops::adamw;
use crate::ops::gradnorm::cuda::{self as gradnorm, Decision, Kind, Partials, StepRecord, StepState};
use crate::ops::reduce;
use crate::tape::{Gradients, Params};
use crate::tensor::Tensor;

/// Steps whose records the device can hold before the host must ask for them.
pub const MAX_IN_FLIGHT: usize = 1024;

/// The optimizer's state, on the host.
#[derive(Clone, Debug)]
pub struct Moments {
    /// First moments, in arena layout.
    pub m: Vec<f32>,
    /// Second moments, in arena layout.
    pub v: Vec<f32>,
    /// Updates applied: Adam's t.
    pub updates: u64,
    /// The loss scale, with fp16.
    pub scale: Option<ScaleState>,
}

/// AdamW with its moments on a GPU, and the record of what its steps did.
pub struct DeviceOptimizer {
    gpu: &'static Gpu,
    hyper: Hyper,
    scaling: Option<LossScaling>,
    /// Whether the first step that is not finite ends all updates (`stability.nonfinite = "error"`).
    stop: bool,
    /// The elements of the arena that are updated here.
    part: Range<usize>,
    m: Tensor,
    v: Tensor,
    /// One byte for each 16 elements of the arena: whether weight decay acts there.
    decays: Tensor,
    /// A [`StepState`]. Kernels change it behind shared views, in stream order.
    state: Tensor,
    /// A ring of [`StepRecord`]s.
    records: Tensor,
    in_flight: usize,
    /// Sums of losses, f64, one for each lane.
    lane_losses: Tensor,
    partials: Partials,
}

impl DeviceOptimizer {
    /// The elements of a chunk of the norm: see [`DeviceOptimizer::step_part`].
    pub const PART_ALIGN: usize = gradnorm::CHUNK;

    /// A fresh optimizer for parameters that lie on a GPU.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(
        gpu: &'static Gpu,
        hyper: Hyper,
        scaling: Option<LossScaling>,
        stop: bool,
        params: &Params,
        lanes: usize,
    ) -> Result<DeviceOptimizer> {
        let all = 0..params.layout().trained();
        DeviceOptimizer::of_part(gpu, hyper, scaling, stop, params, lanes, all)
    }

    /// A fresh optimizer for the elements `part` of the gradients, from a multiple of the arena's alignment on; other processes
    /// have the rest (ZeRO stage 1, Rajbhandari et al. 2020).
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn of_part(
        gpu: &'static Gpu,
        hyper: Hyper,
        scaling: Option<LossScaling>,
        stop: bool,
        params: &Params,
        lanes: usize,
        part: Range<usize>,
    ) -> Result<DeviceOptimizer> {
        let (device, len) = (gpu.device(), params.layout().trained());
        if part.is_empty() {
            return Err(Error::usage("the model is too small for dist.shard_optimizer with so many processes"));
        }
        let mut optimizer = DeviceOptimizer {
            gpu,
            hyper,
            scaling,
            stop,
            m: Tensor::zeros(device, DType::F32, &[part.len()])?,
            v: Tensor::zeros(device, DType::F32, &[part.len()])?,
            part,
            decays: adamw::cuda::decays(params.layout())?.to_device(device)?,
            state: Tensor::zeros(device, DType::F32, &[StepState::WORDS])?,
            records: Tensor::zeros(device, DType::U32, &[MAX_IN_FLIGHT * StepRecord::WORDS])?,
            in_flight: 0,
            lane_losses: Tensor::zeros(device, DType::U32, &[2 * lanes])?,
            partials: Partials::new(gpu, len)?,
        };
        optimizer.set_state(0, None)?;
        Ok(optimizer)
    }

    fn set_state(&mut self, updates: u64, scale: Option<ScaleState>) -> Result<()> {
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

    /// What a checkpoint keeps. It waits.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state(&self) -> Result<Moments> {
        self.state_of(self.part())
    }

    /// [`DeviceOptimizer::state`] of some of the elements that are updated here. It waits.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If they are not updated here.
    pub fn state_of(&self, part: Range<usize>) -> Result<Moments> {
        let words = self.state.to_vec_f32()?;
        let state: StepState = bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words));
        let scale = self.scaling.map(|_| ScaleState { loss_scale: state.loss_scale, good_steps: state.good_steps });
        let first = part.start - self.part.start;
        let of = |moments: &Tensor| match part.is_empty() {
            true => Ok(Vec::new()),
            false => moments.view(first, &[part.len()]).to_vec_f32(),
        };
        let (m, v) = (of(&self.m)?, of(&self.v)?);
        Ok(Moments { m, v, updates: u64::from(state.updates), scale })
    }

    /// Puts back what [`DeviceOptimizer::state`] gave.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn restore(&mut self, m: &[f32], v: &[f32], updates: u64, scale: Option<ScaleState>) -> Result<()> {
        self.m.copy_from(&Tensor::from_f32(m, &[m.len()])?)?;
        self.v.copy_from(&Tensor::from_f32(v, &[v.len()])?)?;
        self.set_state(updates, scale)
    }

    /// The elements of the arena that are updated here.
    pub fn part(&self) -> Range<usize> {
        self.part.clone()
    }

    /// The sums of losses, two words for each lane: for those of other processes' lanes to be written there.
    pub fn lane_losses_mut(&mut self) -> &mut Tensor {
        &mut self.lane_losses
    }

    /// What the loss is to be multiplied with before it goes back: f32 [1] on the device. None but for fp16.
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

    /// Adds the losses of a micro-batch, f32 [N] on the device, to its lane's.
    ///
    /// # Errors
    /// If the device fails.
    pub fn add_losses(&mut self, lane: usize, losses: &Tensor) -> Result<()> {
        reduce::sum_losses(self.gpu, self.lane_losses.address_mut() + 8 * lane as u64, losses)
    }

    /// Starts one update with learning rate `lr`; whether it is applied is decided on the device.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If [`MAX_IN_FLIGHT`] records wait already.
    pub fn step(&mut self, params: &mut Params, grads: &Gradients, lr: f64) -> Result<()> {
        gradnorm::partial(self.gpu, grads.flat(), 0..grads.flat().len(), &mut self.partials)?;
        self.decide_and_update(params, grads, lr)
    }

    /// [`DeviceOptimizer::step`] where only this optimizer's own elements of `grads` are the sum of all processes', and are whole
    /// chunks of the norm ([`DeviceOptimizer::PART_ALIGN`]): `gather` completes the chunks of the norm with those of the others.
    ///
    /// # Errors
    /// If the device fails; that of `gather`.
    ///
    /// # Panics
    /// As [`DeviceOptimizer::step`].
    pub fn step_part(
        &mut self,
        params: &mut Params,
        grads: &Gradients,
        lr: f64,
        gather: impl FnOnce([&mut Tensor; 2]) -> Result<()>,
    ) -> Result<()> {
        gradnorm::partial(self.gpu, grads.flat(), self.part(), &mut self.partials)?;
        gather(self.partials.buffers_mut())?;
        self.decide_and_update(params, grads, lr)
    }

    fn decide_and_update(&mut self, params: &mut Params, grads: &Gradients, lr: f64) -> Result<()> {
        assert!(self.in_flight < MAX_IN_FLIGHT, "records of steps that nobody asked for");
        let record = self.records.address_mut() + (self.in_flight * StepRecord::WORDS * 4) as u64;
        let Hyper { beta1, beta2, eps, weight_decay, clip_norm } = self.hyper;
        let decision = Decision {
            lr,
            beta1,
            beta2,
            weight_decay,
            clip_norm: clip_norm.map(|clip| clip as f32),
            scaling: self.scaling.map(|scaling| (scaling.min, scaling.max, scaling.growth_interval)),
            stop: self.stop,
        };
        let lanes = self.lane_losses.len() / 2;
        let losses = (self.lane_losses.address(), lanes);
        gradnorm::finish(self.gpu, &mut self.partials, losses, self.state.address(), record, &decision)?;
        let moments = (&mut self.m, &mut self.v);
        let part = self.part.clone();
        adamw::cuda::update(self.gpu, params, grads, moments, &self.decays, part, record, (beta1, beta2, eps))?;
        self.in_flight += 1;
        Ok(())
    }

    /// Losses (means over the targets of each step) and outcomes of the steps since the last call, in order. It waits for
    /// them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn finished(&mut self, params: &Params, targets: &[usize]) -> Result<Vec<(f64, Outcome)>> {
        let used = self.records.view(0, &[self.in_flight * StepRecord::WORDS]);
        let words = used.to_device(crate::device::Device::Cpu)?;
        self.in_flight = 0;
        let records = words.u32().chunks_exact(StepRecord::WORDS);
        assert_eq!(records.len(), targets.len(), "the targets of every step");
        Ok(records
            .map(|words| bytemuck::pod_read_unaligned(bytemuck::cast_slice(words)))
            .zip(targets)
            .map(|(record, &targets): (StepRecord, _)| {
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
                let outcome = Outcome { class, norm: record.norm, norm_clipped: record.norm_clipped };
                (record.loss_sum / targets as f64, outcome)
            })
            .collect())
    }
}
