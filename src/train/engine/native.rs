//! The engine of this project on the CPU.

use super::{Engine, Setup, StepBatch, check_len, micro_step};
use crate::checkpoint::state::ArenaData;
use crate::error::Result;
use crate::model::Gpt;
use crate::optim::{Hyper, Moments, Optimizer, Outcome, ScaleState};
use crate::tape::{Gradients, Params};
use crate::train::lanes::LaneTree;

/// The native engine on the CPU.
pub struct Native<'a> {
    model: &'a Gpt,
    params: Params,
    optimizer: Optimizer,
    lanes: LaneTree,
    setup: Setup,
    finished: Vec<(f64, Outcome)>,
}

impl<'a> Native<'a> {
    /// An engine with these weights and fresh moments.
    ///
    /// # Errors
    /// If memory cannot be had, or `lanes` is not a power of two.
    pub fn new(model: &'a Gpt, params: Params, hyper: Hyper, setup: Setup) -> Result<Native<'a>> {
        let optimizer = Optimizer::new(hyper, &params)?;
        let lanes = LaneTree::new(setup.lanes)?;
        Ok(Native { model, params, optimizer, lanes, setup, finished: Vec::new() })
    }
}

impl Engine for Native<'_> {
    fn step(&mut self, batch: &StepBatch, lr: f64) -> Result<()> {
        let summed = self.lanes.step(&self.params, batch.micro_batches, |micro, grads| {
            let pass = self.setup.pass(self.model, batch, micro, None);
            micro_step(self.model, &self.params, grads, batch, micro, &pass)?.sum()
        });
        let (sum, grads) = summed?;
        let loss = sum / batch.targets() as f64;
        let outcome = self.optimizer.step(&mut self.params, grads.get(), loss, lr);
        self.finished.push((loss, outcome));
        Ok(())
    }

    fn finished(&mut self) -> Result<Vec<(f64, Outcome)>> {
        Ok(std::mem::take(&mut self.finished))
    }

    fn probe(&mut self, batch: &StepBatch) -> Result<()> {
        let mut grads = Gradients::zeros_like(&self.params)?;
        let pass = self.setup.pass(self.model, batch, 0, None);
        micro_step(self.model, &self.params, &mut grads, batch, 0, &pass).map(|_| ())
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn moments(&self) -> Result<Moments> {
        let (m, v, updates) = self.optimizer.state();
        Ok(Moments { m: m.f32().to_vec(), v: v.f32().to_vec(), updates, scale: None })
    }

    fn restore(&mut self, arena: &ArenaData, updates: u64, _scale: Option<ScaleState>) -> Result<()> {
        check_len(&self.params, arena)?;
        self.params.load(&arena.weights)?;
        self.optimizer.restore(&arena.m, &arena.v, updates);
        Ok(())
    }
}
