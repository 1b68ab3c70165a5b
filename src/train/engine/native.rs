//! The engine of this project on the CPU.

use std::ops::Range;
use std::time::Instant;

use super::buckets::Buckets;
use super::{Engine, Setup, StepBatch, Team, check_len, micro_step, overlap};
use crate::checkpoint::state::ArenaData;
use crate::collective::ordered;
use crate::error::Result;
use crate::model::Gpt;
use crate::optim::{Hyper, Moments, Optimizer, Outcome, PART_ALIGN, ScaleState};
use crate::tape::{Gradients, Params, ReadyHook};
use crate::train::lanes::LaneTree;

// Every rank's part of the gradients is made of whole chunks of the gradient norm.
const _: () = assert!(ordered::ALIGN.is_multiple_of(PART_ALIGN));

/// The native engine on the CPU, in the compute dtype of the parameters it is given.
pub struct Native<'a> {
    model: &'a Gpt,
    params: Params,
    optimizer: Optimizer,
    lanes: LaneTree,
    setup: Setup,
    team: Team,
    /// What is sent while backward runs.
    buckets: Option<Buckets>,
    finished: Vec<(f64, Outcome)>,
}

impl<'a> Native<'a> {
    /// An engine with these weights and fresh moments.
    ///
    /// # Errors
    /// If memory cannot be had, or `lanes` is not a power of two.
    pub fn new(model: &'a Gpt, params: Params, hyper: Hyper, setup: Setup) -> Result<Native<'a>> {
        Native::in_team(model, params, hyper, setup, Team::alone())
    }

    /// [`Native::new`] as one of several ranks, each of which has its part of the lanes.
    ///
    /// # Errors
    /// As [`Native::new`]; `Usage` if the ranks do not divide the lanes.
    pub fn in_team(model: &'a Gpt, params: Params, hyper: Hyper, setup: Setup, team: Team) -> Result<Native<'a>> {
        let optimizer = Optimizer::of_part(hyper, &params, team.held(params.layout().trained()))?;
        // Checked first: what divides by a power of two is one, or is refused for not being one.
        let lanes = LaneTree::new(setup.lanes).and_then(|_| LaneTree::new(team.lanes(setup.lanes)?))?;
        let overlaps = team.bucket > 0 && team.ranks.can_overlap();
        let buckets = overlaps.then(|| Buckets::new(params.layout(), team.bucket));
        Ok(Native { model, params, optimizer, lanes, setup, team, buckets, finished: Vec::new() })
    }
}

impl Engine for Native<'_> {
    fn step(&mut self, batch: &StepBatch, lr: f64) -> Result<()> {
        let began = Instant::now();
        let own = self.team.micro_batches(batch.micro_batches);
        let run = |micro: usize, grads: &mut Gradients, hook: Option<ReadyHook<'_>>| {
            let micro = own.start + micro;
            let pass = self.setup.pass(self.model, batch, micro, None);
            micro_step(self.model, &self.params, grads, batch, micro, &pass, hook)?.sum()
        };
        let Team { ranks, .. } = &self.team;
        let (sum, grads) = match &self.buckets {
            Some(buckets) => {
                let done = || ranks.set_busy(began.elapsed());
                overlap::step(&self.team, buckets, &mut self.lanes, &self.params, own.len(), run, done)?
            }
            None => {
                let (sum, mut grads) =
                    self.lanes.step(&self.params, own.len(), |micro, grads| run(micro, grads, None))?;
                ranks.set_busy(began.elapsed());
                let flat = grads.get_mut().flat_mut().f32_mut();
                self.team.reduce(flat, &(0..flat.len()), flat.len())?;
                (sum, grads)
            }
        };
        let loss = ranks.sum("loss", sum)? / batch.targets() as f64;
        let outcome = if self.team.is_sharded() {
            let gather = &mut |mine: &[f64]| ranks.gather_numbers("gradient norm", mine);
            let outcome = self.optimizer.step_part(&mut self.params, grads.get(), gather, loss, lr)?;
            if outcome.class.is_applied() {
                let frozen = self.params.layout().frozen();
                ranks.all_gather("parameters", &mut self.params.flat_mut().f32_mut()[frozen..])?;
                self.params.renew_compute()?;
            }
            outcome
        } else {
            self.optimizer.step(&mut self.params, grads.get(), loss, lr)
        };
        self.finished.push((loss, outcome));
        Ok(())
    }

    fn finished(&mut self) -> Result<Vec<(f64, Outcome)>> {
        Ok(std::mem::take(&mut self.finished))
    }

    fn probe(&mut self, batch: &StepBatch) -> Result<()> {
        let mut grads = Gradients::zeros_like(&self.params)?;
        let pass = self.setup.pass(self.model, batch, 0, None);
        micro_step(self.model, &self.params, &mut grads, batch, 0, &pass, None).map(|_| ())
    }

    fn overlaps(&self) -> bool {
        self.buckets.is_some()
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn moments(&self) -> Result<Moments> {
        let (m, v, updates) = self.optimizer.state();
        let whole = |part: &[f32]| -> Result<Vec<f32>> {
            if !self.team.is_sharded() {
                return Ok(part.to_vec());
            }
            let mut all = vec![0.0; self.params.layout().trained()];
            all[self.held()].copy_from_slice(part);
            self.team.ranks.all_gather("moments", &mut all)?;
            Ok(all)
        };
        Ok(Moments { m: whole(m.f32())?, v: whole(v.f32())?, updates, scale: None })
    }

    fn held(&self) -> Range<usize> {
        self.team.held(self.params.layout().trained())
    }

    fn moments_of(&self, part: Range<usize>) -> Result<Moments> {
        let (m, v, updates) = self.optimizer.state();
        let first = self.held().start;
        let of = |moments: &[f32]| moments[part.start - first..part.end - first].to_vec();
        Ok(Moments { m: of(m.f32()), v: of(v.f32()), updates, scale: None })
    }

    fn restore(&mut self, arena: &ArenaData, updates: u64, _scale: Option<ScaleState>) -> Result<()> {
        check_len(&self.params, arena)?;
        self.params.load(&arena.weights)?;
        let part = self.held();
        self.optimizer.restore(&arena.m[part.clone()], &arena.v[part], updates);
        Ok(())
    }
}
