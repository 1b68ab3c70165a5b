//! The engine of this project on a GPU: the same passes, started without waiting for them.

use super::{Engine, Setup, StepBatch, check_len, micro_step};
use crate::checkpoint::state::ArenaData;
use crate::device::Gpu;
use crate::error::Result;
use crate::model::Gpt;
use crate::optim::device::MOST_IN_FLIGHT;
use crate::optim::{DeviceOptimizer, Hyper, LossScaling, Moments, Outcome, ScaleState};
use crate::tape::{Gradients, Params};
use crate::train::config::Precision;
use crate::train::lanes::LaneTree;

/// The native engine on a GPU.
pub struct OnGpu<'a> {
    model: &'a Gpt,
    params: Params,
    optimizer: DeviceOptimizer,
    lanes: LaneTree,
    setup: Setup,
    /// Targets that count, of each step in flight.
    targets: Vec<usize>,
}

impl<'a> OnGpu<'a> {
    /// An engine with these weights (of the host), copied to `gpu`, and fresh moments. `stop` ends all updates at the
    /// first step that is not finite.
    ///
    /// # Errors
    /// If memory cannot be had, or `lanes` is not a power of two.
    pub fn new(
        gpu: &'static Gpu,
        model: &'a Gpt,
        params: &Params,
        hyper: Hyper,
        setup: Setup,
        precision: Precision,
        stop: bool,
    ) -> Result<OnGpu<'a>> {
        gpu.driver().allow_tf32(precision == Precision::Tf32);
        let params = params.to_device(gpu.device(), precision.dtype())?;
        let scaling = (precision == Precision::Fp16).then(LossScaling::default);
        let optimizer = DeviceOptimizer::new(gpu, hyper, scaling, stop, &params, setup.lanes)?;
        Ok(OnGpu { model, params, optimizer, lanes: LaneTree::new(setup.lanes)?, setup, targets: Vec::new() })
    }
}

impl Engine for OnGpu<'_> {
    fn step(&mut self, batch: &StepBatch, lr: f64) -> Result<()> {
        self.targets.push(batch.targets());
        self.optimizer.begin_step()?;
        let per_lane = batch.micro_batches / self.setup.lanes;
        let (_, grads) = self.lanes.step(&self.params, batch.micro_batches, |micro, grads| {
            let pass = self.setup.pass(self.model, batch, micro, self.optimizer.loss_scale());
            let loss = micro_step(self.model, &self.params, grads, batch, micro, &pass)?;
            // The sum stays on the device, so its share here is nothing.
            self.optimizer.add_losses(micro / per_lane, &loss.losses).map(|()| 0.0)
        })?;
        self.optimizer.step(&mut self.params, grads.get(), lr)
    }

    fn finished(&mut self) -> Result<Vec<(f64, Outcome)>> {
        self.optimizer.finished(&self.params, &std::mem::take(&mut self.targets))
    }

    fn most_in_flight(&self) -> u64 {
        MOST_IN_FLIGHT as u64
    }

    fn probe(&mut self, batch: &StepBatch) -> Result<()> {
        let mut grads = Gradients::zeros_like(&self.params)?;
        let pass = self.setup.pass(self.model, batch, 0, self.optimizer.loss_scale());
        // Reading the losses waits for the pass, so that its time can be taken.
        micro_step(self.model, &self.params, &mut grads, batch, 0, &pass)?.on_host().map(|_| ())
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn moments(&self) -> Result<Moments> {
        self.optimizer.state()
    }

    fn restore(&mut self, arena: &ArenaData, updates: u64, scale: Option<ScaleState>) -> Result<()> {
        check_len(&self.params, arena)?;
        self.params.load(&arena.weights)?;
        self.optimizer.restore(&arena.m, &arena.v, updates, scale)
    }
}
