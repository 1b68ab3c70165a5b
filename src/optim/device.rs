//! The optimizer on a GPU: the guard's decisions and the rule's update, without a wait of the host.

use std::ops::Range;

use super::guard::device::DeviceGuard;
use super::guard::{LossScaling, Outcome, ScaleState};
use super::optimizer::Hyper;
use super::rule::{self, DeviceRule};
use super::state::{OptimizerState, Slots};
use crate::device::Gpu;
use crate::error::{Error, Result};
use crate::ops::gradnorm::cuda::CHUNK;
use crate::tape::{Gradients, Params};
use crate::tensor::Tensor;

pub use super::guard::device::MAX_IN_FLIGHT;

/// An optimizer with its state on a GPU, and the record of what its steps did.
pub struct DeviceOptimizer {
    guard: DeviceGuard,
    rule: Box<dyn DeviceRule>,
    slots: Slots,
}

impl DeviceOptimizer {
    /// The elements of a chunk of the norm: see [`DeviceOptimizer::step_part`].
    pub const PART_ALIGN: usize = CHUNK;

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

    /// A fresh optimizer for the elements `part` of the gradients, from a multiple of the arena's alignment on; other
    /// processes have the rest (ZeRO stage 1, Rajbhandari et al. 2020).
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
        if part.is_empty() {
            return Err(Error::usage("the model is too small for dist.shard_optimizer with so many processes"));
        }
        let rule = rule::of(&hyper.optimizer);
        Ok(DeviceOptimizer {
            slots: Slots::zeros(&*rule, part.clone(), gpu.device())?,
            rule: rule.on_gpu(gpu, params.layout(), part)?,
            guard: DeviceGuard::new(gpu, hyper.clip_norm, scaling, stop, params.layout().trained(), lanes)?,
        })
    }

    /// What a checkpoint keeps, of this optimizer's part. It waits.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state(&self) -> Result<OptimizerState> {
        self.state_of(self.part())
    }

    /// [`DeviceOptimizer::state`] of some of the elements that are updated here. It waits.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If they are not updated here.
    pub fn state_of(&self, part: Range<usize>) -> Result<OptimizerState> {
        let (updates, scale) = self.guard.state()?;
        Ok(OptimizerState { slots: self.slots.of(part)?, updates, scale })
    }

    /// Takes this optimizer's part of whole slots, the count of updates and the loss scale.
    ///
    /// # Errors
    /// `Usage` if the slots are of another rule or size; if the device fails.
    pub fn restore(&mut self, slots: &[(String, Vec<f32>)], updates: u64, scale: Option<ScaleState>) -> Result<()> {
        self.slots.restore(slots)?;
        self.guard.set_state(updates, scale)
    }

    /// The elements of the arena that are updated here.
    pub fn part(&self) -> Range<usize> {
        self.slots.part()
    }

    /// The sums of losses, two words for each lane: for those of other processes' lanes to be written there.
    pub fn lane_losses_mut(&mut self) -> &mut Tensor {
        self.guard.lane_losses_mut()
    }

    /// What the loss is to be multiplied with before it goes back: f32 `[1]` on the device. None but for fp16.
    pub fn loss_scale(&self) -> Option<Tensor> {
        self.guard.loss_scale()
    }

    /// Forgets the losses of the step before.
    ///
    /// # Errors
    /// If the device fails.
    pub fn begin_step(&mut self) -> Result<()> {
        self.guard.begin_step()
    }

    /// Adds the losses of a micro-batch, f32 `[N]` on the device, each times its weight where there are weights, to its
    /// lane's.
    ///
    /// # Errors
    /// If the device fails.
    pub fn add_losses(&mut self, lane: usize, losses: &Tensor, weights: Option<&Tensor>) -> Result<()> {
        self.guard.add_losses(lane, losses, weights)
    }

    /// Starts one update with learning rate `lr`; whether it is applied is decided on the device.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If [`MAX_IN_FLIGHT`] records wait already.
    pub fn step(&mut self, params: &mut Params, grads: &Gradients, lr: f64) -> Result<()> {
        self.guard.measure(grads, 0..grads.flat().len())?;
        self.update(params, grads, lr)
    }

    /// [`DeviceOptimizer::step`] where only this optimizer's own elements of `grads` are the sum of all processes', and are whole
    /// chunks of the norm ([`DeviceOptimizer::PART_ALIGN`]): `gather` completes the chunks of the norm with those of
    /// the others.
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
        gather(self.guard.measure(grads, self.slots.part())?)?;
        self.update(params, grads, lr)
    }

    fn update(&mut self, params: &mut Params, grads: &Gradients, lr: f64) -> Result<()> {
        let record = self.guard.decide(lr)?;
        self.rule.update(params, grads, self.slots.tensors_mut(), record)
    }

    /// Losses (the sum of each step over its denominator) and outcomes of the steps since the last call, in order. It
    /// waits for them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn finished(&mut self, params: &Params, denominators: &[f64]) -> Result<Vec<(f64, Outcome)>> {
        let finished = self.guard.finished(params)?;
        assert_eq!(finished.len(), denominators.len(), "the denominator of every step");
        let mean = |((sum, outcome), &denominator): ((f64, Outcome), &f64)| (sum / denominator, outcome);
        Ok(finished.into_iter().zip(denominators).map(mean).collect())
    }
}
