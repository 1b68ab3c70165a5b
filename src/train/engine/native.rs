//! The engine of this project on the CPU.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::buckets::Buckets;
use super::{Engine, Setup, StepBatch, Team, check_len, holds_chunks, micro_step, overlap};
use crate::checkpoint::state::ArenaData;
use crate::collective::ordered::{self, Shards};
use crate::error::Result;
use crate::model::Gpt;
use crate::optim::rule::{self, Cut};
use crate::optim::{Hyper, Optimizer, OptimizerState, Outcome, PART_ALIGN, ScaleState};
use crate::tape::{Gradients, Params, ReadyHook};
use crate::train::lanes::LaneTree;
use crate::train::objective::{NextToken, Objective};

// Where a rule may be cut anywhere, every rank's part of the gradients is made of whole chunks of the gradient norm.
const _: () = assert!(ordered::ALIGN.is_multiple_of(PART_ALIGN));

/// The native engine on the CPU, in the compute dtype of the parameters it is given.
pub struct Native<'a> {
    model: &'a Gpt,
    params: Params,
    objective: Arc<dyn Objective>,
    optimizer: Optimizer,
    lanes: LaneTree,
    setup: Setup,
    team: Team,
    /// How the optimizer's state is divided among ranks, where it is.
    shards: Option<Shards>,
    /// Whether each rank needs its shard of the sum of gradients only.
    is_split: bool,
    /// What is sent while backward runs.
    buckets: Option<Buckets>,
    finished: Vec<(f64, Outcome)>,
}

impl<'a> Native<'a> {
    /// An engine with these weights and a fresh optimizer.
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
        let (cut, len) = (rule::of(&hyper.optimizer).cut(), params.layout().trained());
        let shards = team.shards(params.layout(), cut, || team.ranks.shards(len));
        let is_split = shards.is_some() && cut == Cut::Anywhere;
        let held = shards.as_ref().map_or(0..len, |shards| shards.range(team.ranks.rank()));
        let optimizer = Optimizer::of_part(hyper, &params, held)?;
        // Checked first: what divides by a power of two is one, or is refused for not being one.
        let lanes = LaneTree::new(setup.lanes).and_then(|_| LaneTree::new(team.lanes(setup.lanes)?))?;
        let overlaps = team.bucket > 0 && team.ranks.can_overlap();
        let buckets = overlaps.then(|| Buckets::new(params.layout(), team.bucket));
        let finished = Vec::new();
        let objective = Arc::new(NextToken);
        Ok(Native { model, params, objective, optimizer, lanes, setup, team, shards, is_split, buckets, finished })
    }

    /// The engine with another objective than that of the next token.
    pub fn with_objective(self, objective: Arc<dyn Objective>) -> Self {
        Native { objective, ..self }
    }
}

impl Engine for Native<'_> {
    fn step(&mut self, batch: &StepBatch, lr: f64) -> Result<()> {
        let began = Instant::now();
        let own = self.team.micro_batches(batch.micro_batches);
        let denominator = self.objective.denominator(batch);
        let objective = (&*self.objective, denominator);
        let run = |micro: usize, grads: &mut Gradients, hook: Option<ReadyHook<'_>>| {
            let micro = own.start + micro;
            let pass = self.setup.pass(self.model, batch, micro, None);
            micro_step(objective, self.model, &self.params, grads, batch, micro, &pass, hook)?.sum()
        };
        let Team { ranks, .. } = &self.team;
        let splits = self.shards.as_ref().filter(|_| self.is_split);
        let (sum, grads) = match &self.buckets {
            Some(buckets) => {
                let done = || ranks.set_busy(began.elapsed());
                overlap::step(&self.team, buckets, &mut self.lanes, &self.params, splits, own.len(), run, done)?
            }
            None => {
                let (sum, mut grads) =
                    self.lanes.step(&self.params, own.len(), |micro, grads| run(micro, grads, None))?;
                ranks.set_busy(began.elapsed());
                let flat = grads.get_mut().flat_mut().f32_mut();
                self.team.reduce(flat, &(0..flat.len()), splits)?;
                (sum, grads)
            }
        };
        let loss = ranks.sum("loss", sum)? / denominator;
        let outcome = if self.is_split {
            let gather = &mut |mine: &[f64]| ranks.gather_numbers("gradient norm", mine);
            self.optimizer.step_part(&mut self.params, grads.get(), gather, loss, lr)?
        } else {
            self.optimizer.step(&mut self.params, grads.get(), loss, lr)
        };
        if outcome.class.is_applied()
            && let Some(shards) = &self.shards
        {
            let frozen = self.params.layout().frozen();
            ranks.all_gather("parameters", &mut self.params.flat_mut().f32_mut()[frozen..], shards)?;
            self.params.renew_compute()?;
        }
        self.finished.push((loss, outcome));
        Ok(())
    }

    fn finished(&mut self) -> Result<Vec<(f64, Outcome)>> {
        Ok(std::mem::take(&mut self.finished))
    }

    fn is_empty(&self, batch: &StepBatch) -> bool {
        self.objective.is_empty(batch)
    }

    fn probe(&mut self, batch: &StepBatch) -> Result<()> {
        let mut grads = Gradients::zeros_like(&self.params)?;
        let pass = self.setup.pass(self.model, batch, 0, None);
        let objective = (&*self.objective, self.objective.denominator(batch));
        micro_step(objective, self.model, &self.params, &mut grads, batch, 0, &pass, None).map(|_| ())
    }

    fn overlaps(&self) -> bool {
        self.buckets.is_some()
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = self.optimizer.state()?;
        if let Some(shards) = &self.shards {
            for (_, values) in &mut state.slots {
                let mut all = vec![0.0; self.params.layout().trained()];
                all[self.held()].copy_from_slice(values);
                self.team.ranks.all_gather("moments", &mut all, shards)?;
                *values = all;
            }
        }
        Ok(state)
    }

    fn held(&self) -> Range<usize> {
        self.optimizer.part()
    }

    fn holds_chunks(&self, chunk: usize) -> bool {
        holds_chunks(self.shards.as_ref(), chunk, self.params.layout().trained())
    }

    fn state_of(&self, part: Range<usize>) -> Result<OptimizerState> {
        self.optimizer.state_of(part)
    }

    fn restore(&mut self, arena: &ArenaData, updates: u64, _scale: Option<ScaleState>) -> Result<()> {
        check_len(&self.params, arena)?;
        self.optimizer.restore(&arena.slots, updates)?;
        self.params.load(&arena.weights)
    }
}
