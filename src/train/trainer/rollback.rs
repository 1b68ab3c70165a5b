//! `stability.spike = "rollback"`: after a loss spike, back to the last scheduled checkpoint, and on with later data.
//!
//! The remedy of PaLM (Chowdhery et al. 2022, section 5.1): weights, moments, step and schedule go back, the position in the
//! data does not. So the sequences read since the checkpoint, those of the spiking step included, are left out, and the
//! steps are made again on the ones that follow.
//!
//! It keeps the promise that a stopped run resumes with the same bits. Which checkpoint is gone back to is a function of the
//! step (multiples of `checkpoint.every`, or step 0), never of the checkpoint that a signal happened to leave; and how often
//! it was gone back to is part of the state. A run killed after going back resumes from that checkpoint, meets the same
//! spike and goes back again, as the unbroken run did.

use super::Trainer;
use crate::checkpoint::state::{self, TrainingState};
use crate::checkpoint::store::Store;
use crate::error::{Error, Result, ResultExt};
use crate::events::{DataRange, Event, Rollback};
use crate::setting::Interval;
use crate::train::config::Spike;

/// How often training goes back to one checkpoint before it gives up: a model that spikes on ever new data has another
/// trouble than its data.
const MAX: u64 = 10;

impl Trainer<'_> {
    /// The newest step up to `step` that has a checkpoint by schedule.
    fn scheduled(&self, step: u64) -> u64 {
        match self.job.checkpoint.every {
            Interval::Steps(every) if every > 0 => step / every * every,
            _ => 0,
        }
    }

    /// The checkpoint that must not be removed, since a spike at the next step would go back to it.
    pub(super) fn pinned(&self) -> Option<u64> {
        (self.job.stability.spike == Spike::Rollback).then(|| self.scheduled(self.state.step))
    }

    /// Goes back from the step that was just made and spiked.
    ///
    /// # Errors
    /// `Training` if this checkpoint was gone back to too often (the state is saved); or if it cannot be read.
    pub(super) fn roll_back(&mut self, loss: f64, z_score: f64) -> Result<()> {
        let from = self.state.step;
        let to = self.scheduled(from - 1);
        let times = self.state.rollbacks.filter(|(step, _)| *step == to).map_or(0, |(_, times)| times) + 1;
        if times > MAX {
            self.save()?;
            return Err(Error::Training(format!(
                "the loss spiked again at step {from} after going back to step {to} {MAX} times (stability.spike = \
                 \"rollback\"); lower optimizer.lr, lengthen schedule.warmup_steps, or raise stability.spike_threshold"
            )));
        }
        let path = Store::of_run(self.job.folder).path(to);
        let (saved, arena) = state::read(&path)
            .context(|| format!("going back to step {to} after a loss spike at step {from} (stability.spike)"))?;
        let next_sequence = self.state.next_sequence;
        let sequences = (from - to) * self.job.global_batch as u64;
        let first_sequence = next_sequence - sequences;
        let listed = first_sequence..first_sequence + sequences.min(DataRange::LISTED as u64);
        let data = DataRange {
            first_sequence,
            sequences,
            context_length: self.loader.context_length() as u64,
            positions: listed.map(|sequence| self.loader.start_of(sequence)).collect(),
        };
        self.restore(TrainingState { next_sequence, rollbacks: Some((to, times)), ..saved }, &arena)?;
        self.last_val = None;
        self.last_samples.clear();
        self.record(Event::Rollback(Rollback { step: to, from, loss, z_score, data }))
    }
}
