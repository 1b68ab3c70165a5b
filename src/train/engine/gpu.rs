//! The engine of this project on a GPU: the same passes, started without waiting for them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::buckets::Buckets;
use super::device_sums::DeviceSums;
use super::{Engine, Setup, StepBatch, Team, check_len, holds_chunks, micro_step};
use crate::checkpoint::state::ArenaData;
use crate::collective::ordered::Shards;
use crate::device::Gpu;
use crate::device::launch::Mark;
use crate::error::Result;
use crate::model::Gpt;
use crate::optim::device::MAX_IN_FLIGHT;
use crate::optim::rule::{self, Cut};
use crate::optim::{DeviceOptimizer, Hyper, LossScaling, OptimizerState, Outcome, ScaleState};
use crate::tape::{Gradients, Params, ReadyHook};
use crate::train::config::Precision;
use crate::train::lanes::LaneTree;
use crate::train::objective::{NextToken, Objective};

/// The native engine on a GPU.
pub struct OnGpu<'a> {
    gpu: &'static Gpu,
    model: &'a Gpt,
    params: Params,
    objective: Arc<dyn Objective>,
    optimizer: DeviceOptimizer,
    lanes: LaneTree,
    setup: Setup,
    team: Team,
    sums: Option<DeviceSums>,
    /// What is sent while backward runs.
    buckets: Option<Buckets>,
    /// How the optimizer's state is divided among ranks, where it is.
    shards: Option<Shards>,
    /// Whether each rank needs its shard of the sum of gradients only.
    is_split: bool,
    /// The denominator of the loss of each step in flight.
    denominators: Vec<f64>,
    /// When each step in flight began and had computed its gradients.
    computed: Vec<(Mark, Mark)>,
}

impl<'a> OnGpu<'a> {
    /// An engine with these weights (of the host), copied to `gpu`, and a fresh optimizer. `stop` ends all updates at the
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
        OnGpu::in_team(gpu, model, params, hyper, setup, precision, stop, Team::alone())
    }

    /// [`OnGpu::new`] as one of several ranks, each of which has its GPU and its part of the lanes.
    ///
    /// # Errors
    /// As [`OnGpu::new`]; `Usage` if the ranks do not divide the lanes; if the GPUs cannot be connected.
    pub fn in_team(
        gpu: &'static Gpu,
        model: &'a Gpt,
        params: &Params,
        hyper: Hyper,
        setup: Setup,
        precision: Precision,
        stop: bool,
        team: Team,
    ) -> Result<OnGpu<'a>> {
        gpu.driver().allow_tf32(precision == Precision::Tf32);
        let lanes = LaneTree::new(setup.lanes).and_then(|_| LaneTree::new(team.lanes(setup.lanes)?))?;
        let sums = DeviceSums::new(&team, gpu)?;
        let len = params.layout().trained();
        let cut = rule::of(&hyper.optimizer).cut();
        let shards = sums.as_ref().and_then(|sums| team.shards(params.layout(), cut, || sums.shards(len)));
        let part = shards.as_ref().map_or(0..len, |shards| shards.range(team.ranks.rank()));
        let params = params.to_device(gpu.device(), precision.dtype())?;
        let scaling = (precision == Precision::Fp16).then(LossScaling::default);
        let optimizer = DeviceOptimizer::of_part(gpu, hyper, scaling, stop, &params, setup.lanes, part)?;
        let overlaps = sums.as_ref().is_some_and(DeviceSums::can_overlap);
        let buckets = overlaps.then(|| Buckets::new(params.layout(), team.bucket));
        let is_split = shards.is_some() && cut == Cut::Anywhere && sums.as_ref().is_some_and(|s| s.splits_norm(len));
        let (denominators, computed) = (Vec::new(), Vec::new());
        Ok(OnGpu {
            gpu,
            model,
            params,
            objective: Arc::new(NextToken),
            optimizer,
            lanes,
            setup,
            team,
            sums,
            buckets,
            shards,
            is_split,
            denominators,
            computed,
        })
    }

    /// The engine with another objective than that of the next token.
    pub fn with_objective(self, objective: Arc<dyn Objective>) -> Self {
        OnGpu { objective, ..self }
    }
}

impl Engine for OnGpu<'_> {
    fn step(&mut self, batch: &StepBatch, lr: f64) -> Result<()> {
        let denominator = self.objective.denominator(batch);
        self.denominators.push(denominator);
        let objective = (&*self.objective, denominator);
        self.optimizer.begin_step()?;
        let per_lane = batch.micro_batches / self.setup.lanes;
        let own = self.team.micro_batches(batch.micro_batches);
        let len = self.params.layout().trained();
        let driver = self.gpu.driver();
        let began = self.sums.is_some().then(|| driver.mark()).transpose()?;
        let (setup, model, params, optimizer) = (&self.setup, self.model, &self.params, &mut self.optimizer);
        let mut run = |micro: usize, grads: &mut Gradients, hook: Option<ReadyHook<'_>>| {
            let micro = own.start + micro;
            let pass = setup.pass(model, batch, micro, optimizer.loss_scale());
            let loss = micro_step(objective, model, params, grads, batch, micro, &pass, hook)?;
            // The sum stays on the device, so its share here is nothing.
            optimizer.add_losses(micro / per_lane, &loss.losses, loss.weights.as_ref()).map(|()| 0.0)
        };
        let (_, mut grads) = match (&self.buckets, &mut self.sums) {
            (Some(buckets), Some(sums)) => self.lanes.step_in_pieces(params, own.len(), |micro, grads, earlier| {
                let Some(earlier) = earlier else { return run(micro, grads, None) };
                let earlier: Vec<u64> = earlier.buffers().map(|sum| sum.flat().address()).collect();
                let mut pass = buckets.pass();
                let mut send = |bucket: usize, grads: &mut Gradients| {
                    let window = &buckets.ranges()[bucket];
                    sums.reduce_beside(grads.flat_mut().address_mut(), window, len, &earlier, self.is_split)
                };
                let hook: ReadyHook<'_> =
                    Box::new(|id, grads| pass.complete(id).try_for_each(|bucket| send(bucket, grads)));
                let loss = run(micro, grads, Some(hook))?;
                pass.rest().try_for_each(|bucket| send(bucket, grads))?;
                Ok(loss)
            })?,
            _ => self.lanes.step(params, own.len(), |micro, grads| run(micro, grads, None))?,
        };
        let Some(sums) = &mut self.sums else {
            return self.optimizer.step(&mut self.params, grads.get(), lr);
        };
        self.computed.extend(began.zip(Some(driver.mark()?)));
        match self.buckets {
            Some(_) => sums.join()?,
            None => sums.all_reduce("gradients", grads.get_mut().flat_mut())?,
        }
        sums.share("losses", self.optimizer.lane_losses_mut())?;
        if self.buckets.is_some() && self.is_split {
            self.optimizer.step_part(&mut self.params, grads.get(), lr, |partials| sums.share_norm(partials))?;
        } else {
            self.optimizer.step(&mut self.params, grads.get(), lr)?;
        }
        if let Some(shards) = &self.shards {
            let shards = shards.after(self.params.layout().frozen());
            sums.all_gather("parameters", self.params.flat_mut(), &shards)?;
            self.params.renew_compute()?;
        }
        Ok(())
    }

    fn finished(&mut self) -> Result<Vec<(f64, Outcome)>> {
        let _watched = self.sums.as_ref().map(DeviceSums::watch);
        let finished = self.optimizer.finished(&self.params, &std::mem::take(&mut self.denominators))?;
        self.sums.as_ref().map_or(Ok(()), DeviceSums::check)?;
        // All of it is done: the mean time in which this rank's GPU has computed a step's gradients.
        let spans = self.computed.drain(..).filter_map(|(began, ended)| Some((*began.get()?, *ended.get()?)));
        let spans: Vec<Duration> = spans.map(|(began, ended)| ended.saturating_duration_since(began)).collect();
        if !spans.is_empty() {
            self.team.ranks.set_busy(spans.iter().sum::<Duration>() / spans.len() as u32);
        }
        Ok(finished)
    }

    fn overlaps(&self) -> bool {
        self.buckets.is_some()
    }

    fn max_in_flight(&self) -> u64 {
        MAX_IN_FLIGHT as u64
    }

    fn is_empty(&self, batch: &StepBatch) -> bool {
        self.objective.is_empty(batch)
    }

    fn probe(&mut self, batch: &StepBatch) -> Result<()> {
        let mut grads = Gradients::zeros_like(&self.params)?;
        let pass = self.setup.pass(self.model, batch, 0, self.optimizer.loss_scale());
        // Reading the losses waits for the pass, so that its time can be taken.
        let objective = (&*self.objective, self.objective.denominator(batch));
        micro_step(objective, self.model, &self.params, &mut grads, batch, 0, &pass, None)?.on_host().map(|_| ())
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = self.optimizer.state()?;
        if self.shards.is_some() {
            for (_, values) in &mut state.slots {
                // The parts follow each other in the order of the ranks.
                let all = self.team.ranks.gather_after_work("moments", bytemuck::cast_slice(values))?;
                *values = all.iter().flat_map(|bytes| bytemuck::pod_collect_to_vec::<u8, f32>(bytes)).collect();
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

    fn restore(&mut self, arena: &ArenaData, updates: u64, scale: Option<ScaleState>) -> Result<()> {
        check_len(&self.params, arena)?;
        self.optimizer.restore(&arena.slots, updates, scale)?;
        self.params.load(&arena.weights)
    }
}
