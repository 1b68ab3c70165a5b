//! Optimizer steps: how they are started, and what is made of their outcome.
//!
//! A GPU works on steps that the host has long started: the trainer asks for outcomes every `train.log_every` steps, and
//! whenever something is due that needs them. The CPU has a step's outcome as soon as it is started, and is asked each time.

use std::time::Instant;

use super::{StartedStep, Trainer};
use crate::error::{Error, Result};
use crate::events::{self, DataRange, Event};
use crate::optim::schedule::learning_rate;
use crate::optim::{Class, Outcome};
use crate::train::config::{Nonfinite, Spike};
use crate::train::engine::StepBatch;

impl Trainer<'_> {
    /// Starts the next step.
    pub(super) fn start_step(&mut self) -> Result<()> {
        if self.in_flight.is_empty() {
            self.settled = Instant::now();
        }
        let batch = self.batch();
        self.job.ranks.set_step(batch.step + 1);
        let lr = learning_rate(self.job.schedule, self.job.optimizer.lr, batch.step, self.job.max_steps);
        self.engine.step(&batch, lr)?;
        let is_empty = self.engine.is_empty(&batch);
        self.in_flight.push(StartedStep { lr, tokens: batch.tokens() as u64, data: data_range(&batch), is_empty });
        Ok(())
    }

    /// Whether outcomes must be asked for before another step is started. Going back after a spike must happen at the step
    /// that spiked, so with it every step is waited for.
    pub(super) fn must_settle(&self) -> bool {
        self.in_flight.len() as u64 >= self.engine.max_in_flight() || self.job.stability.spike == Spike::Rollback
    }

    /// Waits for all started steps; events and counters of each.
    pub(super) fn settle(&mut self) -> Result<()> {
        let finished = self.engine.finished()?;
        let started = std::mem::take(&mut self.in_flight);
        assert_eq!(finished.len(), started.len(), "an outcome for every step");
        let seconds = self.settled.elapsed().as_secs_f64() / started.len().max(1) as f64;
        self.settled = Instant::now();
        let mut too_many = false;
        for (started, (loss, outcome)) in started.into_iter().zip(finished) {
            let before = self.state.step;
            // After a step that is refused under `nonfinite = "error"`, the device has done nothing more.
            too_many |= self.take_outcome(started, loss, outcome, seconds)?;
            if self.state.step <= before {
                return Ok(());
            }
        }
        if too_many {
            return self.stop_after_skips();
        }
        Ok(())
    }

    /// What one finished step means. True if it is one refused step too many.
    fn take_outcome(&mut self, started: StartedStep, loss: f64, outcome: Outcome, seconds: f64) -> Result<bool> {
        let StartedStep { lr, tokens, data, is_empty } = started;
        if outcome.class.is_refused() && self.job.stability.nonfinite == Nonfinite::Error {
            return self.stop_at_nonfinite(self.state.step + 1, outcome, data);
        }
        self.state.step += 1;
        self.state.tokens += tokens;
        self.state.next_sequence += self.job.global_batch as u64;
        self.state.updates += u64::from(outcome.class.is_applied());
        if is_empty && !std::mem::replace(&mut self.told_empty, true) {
            let text = format!(
                "step {}: none of its {} sequences has a target that counts, so its loss is 0 and it teaches nothing; later \
                 steps like it are not told of",
                self.state.step, data.sequences
            );
            self.observers.iter_mut().for_each(|observer| observer.note(&text));
        }
        let tokens_per_s = tokens as f64 / seconds;
        let flops = tokens_per_s * self.model.config().flops_per_token() as f64;
        self.record(Event::Step(events::Step {
            step: self.state.step,
            tokens: self.state.tokens,
            loss,
            lr,
            grad_norm: f64::from(outcome.norm),
            grad_norm_clipped: f64::from(outcome.norm_clipped),
            class: logged_class(outcome.class),
            step_ms: seconds * 1e3,
            tokens_per_s,
            mfu: self.job.peak_flops.map(|peak| flops / peak),
        }))?;
        self.watch_stability(loss, outcome, data)
    }

    /// Events and counters after a step: skipped steps, spikes. True if it is one refused step too many.
    fn watch_stability(&mut self, loss: f64, outcome: Outcome, data: DataRange) -> Result<bool> {
        let spike = self.spikes.take(loss);
        self.state.recent_losses = self.spikes.recent();
        if let Some(z_score) = spike {
            if self.job.stability.spike == Spike::Rollback {
                return self.roll_back(loss, z_score).map(|()| false);
            }
            self.record(Event::Spike(events::Spike {
                step: self.state.step,
                loss,
                z_score,
                data: Some(data.clone()),
            }))?;
        }
        if !outcome.class.is_refused() {
            // A halved loss scale is no sign of trouble, and no sign that trouble is over.
            if outcome.class.is_applied() {
                self.state.consecutive_skips = 0;
            }
            return Ok(false);
        }
        self.state.consecutive_skips += 1;
        let event = self.nonfinite(self.state.step, outcome, events::Action::Skip, data);
        self.record(Event::Nonfinite(event))?;
        Ok(self.state.consecutive_skips >= self.job.stability.max_consecutive_skips)
    }

    /// `stability.max_consecutive_skips`: the state is saved, and the run ends. On a GPU that is at the next time outcomes
    /// are asked for, when a few more steps have been made.
    fn stop_after_skips(&mut self) -> Result<()> {
        self.save()?;
        Err(Error::Training(format!(
            "{} steps in a row had a loss or gradient that is not finite (stability.max_consecutive_skips); lower \
             optimizer.lr, lengthen schedule.warmup_steps, or look at the data around sequence {}",
            self.job.stability.max_consecutive_skips, self.state.next_sequence
        )))
    }

    fn nonfinite(&self, step: u64, outcome: Outcome, action: events::Action, data: DataRange) -> events::Nonfinite {
        let parameter = match outcome.class {
            Class::NonFinite(id) => Some(self.engine.params().layout().info(id).name.clone()),
            _ => None,
        };
        events::Nonfinite { step, class: logged_class(outcome.class), parameter, action, data: Some(data) }
    }

    /// `stability.nonfinite = "error"`: the update was not applied, so the state is the one before the step; it is saved.
    fn stop_at_nonfinite(&mut self, step: u64, outcome: Outcome, data: DataRange) -> Result<bool> {
        let what = self.nonfinite(step, outcome, events::Action::Error, data);
        let place = what.parameter.as_ref().map(|name| format!("; the first such gradient is that of {name}"));
        let message = format!(
            "step {step} is not finite (class {}{}); the state before it is saved. stability.nonfinite = \"skip\" continues \
             without such steps",
            what.class.name(),
            place.unwrap_or_default()
        );
        self.record(Event::Nonfinite(what))?;
        self.save()?;
        Err(Error::Training(message))
    }
}

/// Where a step's data lies.
fn data_range(batch: &StepBatch) -> DataRange {
    let (first_sequence, sequences) = (batch.first_sequence, (batch.micro_batch * batch.micro_batches) as u64);
    let listed = first_sequence..first_sequence + sequences.min(DataRange::LISTED as u64);
    DataRange {
        first_sequence,
        sequences,
        context_length: batch.loader.context_length() as u64,
        positions: listed.map(|sequence| batch.loader.start_of(sequence)).collect(),
    }
}

fn logged_class(class: Class) -> events::Class {
    match class {
        Class::Finite => events::Class::Finite,
        Class::Clipped => events::Class::Clipped,
        Class::Overflow => events::Class::Overflow,
        Class::NonFinite(_) => events::Class::Nonfinite,
        Class::LossNonFinite => events::Class::LossNonfinite,
        Class::Backoff => events::Class::Backoff,
        Class::Stopped => unreachable!("a run stops at the first step that is not finite"),
    }
}
