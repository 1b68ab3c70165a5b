//! The training loop: accumulate, classify, update, evaluate, log, save.
//!
//! Everything that decides a result is a function of (config, step): the sequences of a step, dropout masks, the learning
//! rate. So a checkpoint needs only the numbers and the counters, and a resumed run cannot be told from an unbroken one.

mod evaluate;
mod rollback;
mod saving;
mod steps;
#[cfg(test)]
mod tests;

pub use evaluate::score_event;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::checkpoint::state::{ArenaData, TrainingState};
use crate::checkpoint::store::Store;
use crate::collective::Ranks;
use crate::collective::ranks::{Spread, spread};
use crate::data::tokenizer::Tokenizer;
use crate::data::{Loader, Sequences};
use crate::error::{Error, Result};
use crate::eval::Evaluation;
use crate::eval::tasks::Task;
use crate::events::{self, DataRange, Event, EventLog, EventWriter};
use crate::model::Gpt;
use crate::optim::ScaleState;
use crate::optim::config::{OptimizerConfig, ScheduleConfig};
use crate::sample::{Request, SamplerConfig, generate};
use crate::train::config::{RunConfig, Spike, StabilityConfig, TrainConfig};
use crate::train::engine::{Engine, StepBatch};
use crate::train::save::{self, Card};
use crate::train::spike::SpikeWatch;

/// What was found out about the model at a step, for the card of its checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Findings<'a> {
    /// The validation of that step.
    pub val: Option<&'a Evaluation>,
    /// The benchmarks of that step.
    pub tasks: &'a [events::Task],
    /// The texts that it wrote at that step.
    pub samples: &'a [events::Sample],
}

/// Writes the model card from the state and what was found out at that step.
pub type CardWriter<'a> = dyn Fn(&TrainingState, Findings<'_>) -> Result<Card> + 'a;

/// Everything a run is made of, resolved.
pub struct Job<'a> {
    /// The run folder.
    pub folder: &'a Path,
    /// Seeds.
    pub run: &'a RunConfig,
    /// Batch, recomputation, logging.
    pub train: &'a TrainConfig,
    /// The optimizer's numbers.
    pub optimizer: &'a OptimizerConfig,
    /// The learning rate's shape.
    pub schedule: &'a ScheduleConfig,
    /// Clipping and the policy for what is not finite.
    pub stability: &'a StabilityConfig,
    /// Validation.
    pub eval: &'a crate::eval::config::EvalConfig,
    /// When to save and what to keep.
    pub checkpoint: &'a crate::checkpoint::config::CheckpointConfig,
    /// Samples during training.
    pub sample: &'a crate::sample::config::SampleConfig,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// What is trained on.
    pub data: Sequences,
    /// Whether sequences are shuffled.
    pub shuffle: bool,
    /// What is held out for validation.
    pub val: Option<&'a Sequences>,
    /// Benchmarks.
    pub tasks: &'a [Task],
    /// Sequences of one pass.
    pub micro_batch: usize,
    /// Sequences of one step.
    pub global_batch: usize,
    /// The last step.
    pub max_steps: u64,
    /// The hash of what decides results.
    pub config_hash: String,
    /// The hardware kind.
    pub hardware: String,
    /// With adapters: what they correct.
    pub base: Option<save::Base>,
    /// The model card of a checkpoint, from the state at that time and its validation.
    pub card: &'a CardWriter<'a>,
    /// What the device could do at most, in FLOP/s of the precision, where that is known.
    pub peak_flops: Option<f64>,
    /// The processes that train together. Rank 0 alone writes, but for parts of checkpoints.
    pub ranks: Ranks,
    /// Whether all of them see the same run folder, so that each can write its part of a checkpoint.
    pub is_shared: bool,
}

/// Someone who watches a run: a progress bar, charts, a push. It cannot fail the run.
pub trait Observer {
    /// Something happened; the event log has it already (though perhaps not on disk yet).
    fn event(&mut self, event: &Event);

    /// A word for people about the run, which is no event.
    fn note(&mut self, text: &str) {
        let _ = text;
    }

    /// A checkpoint is whole on disk.
    fn checkpoint(&mut self, run: &Path, checkpoint: &Path) {
        let _ = (run, checkpoint);
    }

    /// The run has ended, well or not, and all of it is written. `stop` was set by a signal, or may be while this waits.
    fn finish(&mut self, run: &Path, stop: &AtomicBool) {
        let _ = (run, stop);
    }
}

/// A model in training.
pub struct Trainer<'a> {
    job: Job<'a>,
    model: &'a Gpt,
    engine: Box<dyn Engine + 'a>,
    loader: Loader,
    state: TrainingState,
    spikes: SpikeWatch,
    /// The event log; rank 0 has it.
    log: Option<EventWriter>,
    observers: Vec<&'a mut dyn Observer>,
    /// The last validation and its step.
    last_val: Option<(u64, Evaluation)>,
    /// The benchmarks that were scored last, all at one step.
    last_tasks: Vec<events::Task>,
    last_samples: Vec<events::Sample>,
    began: Instant,
    /// Steps that were started, and whose outcome is not known yet.
    in_flight: Vec<StartedStep>,
    /// When the outcome of the last known step was.
    settled: Instant,
    /// Whether it was said that steps teach nothing.
    told_empty: bool,
}

/// A step that was started.
struct StartedStep {
    lr: f64,
    tokens: u64,
    data: DataRange,
    /// Whether nothing in it counts for the loss.
    is_empty: bool,
}

impl<'a> Trainer<'a> {
    /// A trainer at the start of a run; the engine holds the initial weights.
    ///
    /// # Errors
    /// If the data has less than one sequence.
    pub fn new(
        job: Job<'a>,
        model: &'a Gpt,
        engine: Box<dyn Engine + 'a>,
        log: Option<EventWriter>,
    ) -> Result<Trainer<'a>> {
        let loader = Loader::new(job.data.clone(), model.config().context_length, job.shuffle, job.run.seed_data())?;
        let state = TrainingState {
            version: TrainingState::VERSION,
            step: 0,
            tokens: 0,
            next_sequence: 0,
            updates: 0,
            loss_scale: None,
            consecutive_skips: 0,
            recent_losses: Vec::new(),
            val_loss: None,
            best: None,
            rollbacks: None,
            seeds: [job.run.seed_init(), job.run.seed_data(), job.run.seed_dropout()],
            micro_batch: job.micro_batch,
            config_hash: job.config_hash.clone(),
            tokenizer_hash: job.tokenizer.hash().to_string(),
            hardware: job.hardware.clone(),
            base_hash: job.base.as_ref().map(|base| base.hash.clone()),
        };
        let spikes = SpikeWatch::new(job.stability.spike_window, job.stability.spike_threshold.value(), &[]);
        Ok(Trainer {
            job,
            model,
            engine,
            loader,
            state,
            spikes,
            log,
            observers: Vec::new(),
            last_val: None,
            last_tasks: Vec::new(),
            last_samples: Vec::new(),
            began: Instant::now(),
            in_flight: Vec::new(),
            settled: Instant::now(),
            told_empty: false,
        })
    }

    /// Resumes from a checkpoint's content instead of the start.
    ///
    /// # Errors
    /// If it is of another model or tokenizer.
    pub fn restore(&mut self, state: TrainingState, arena: &ArenaData) -> Result<()> {
        if state.tokenizer_hash != self.state.tokenizer_hash {
            return Err(Error::usage("the checkpoint was made with another tokenizer than the config's"));
        }
        if state.base_hash != self.state.base_hash {
            return Err(Error::usage(
                "the checkpoint's adapters correct another model than the one in model.init_from; put that one back, or start \
                 a new run",
            ));
        }
        let scale = state.loss_scale.map(|(loss_scale, good_steps)| ScaleState { loss_scale, good_steps });
        let arena = arena.in_buffers_of(self.engine.params().layout());
        self.engine.restore(&arena, state.updates, scale)?;
        let stability = self.job.stability;
        self.spikes = SpikeWatch::new(stability.spike_window, stability.spike_threshold.value(), &state.recent_losses);
        self.state = TrainingState {
            config_hash: self.job.config_hash.clone(),
            hardware: self.job.hardware.clone(),
            seeds: self.state.seeds,
            micro_batch: self.job.micro_batch,
            ..state
        };
        Ok(())
    }

    /// The sequences of the next step. It borrows the loader alone, which a clone of shares.
    fn batch(&self) -> StepBatch {
        let ahead = self.in_flight.len() as u64;
        StepBatch {
            loader: self.loader.clone(),
            first_sequence: self.state.next_sequence + ahead * self.job.global_batch as u64,
            micro_batch: self.job.micro_batch,
            micro_batches: self.job.global_batch / self.job.micro_batch,
            step: self.state.step + ahead,
        }
    }

    /// Adds someone who watches.
    pub fn observe(&mut self, observer: &'a mut dyn Observer) {
        self.observers.push(observer);
    }

    /// Finished steps.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Records an event.
    ///
    /// # Errors
    /// If the log cannot be written.
    pub fn record(&mut self, event: Event) -> Result<()> {
        if let Some(log) = &mut self.log {
            log.write(&event)?;
        }
        self.observers.iter_mut().for_each(|observer| observer.event(&event));
        Ok(())
    }

    /// Runs one micro-batch forward and backward and throws the result away: it warms the buffers up and tells how long
    /// it takes. Gives seconds.
    ///
    /// # Errors
    /// If it fails, above all for want of memory.
    pub fn probe(&mut self) -> Result<f64> {
        let began = Instant::now();
        let batch = self.batch();
        self.engine.probe(&batch)?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// Trains to the last step. `stop` is set by a signal: the state is saved and `Error::Stopped` returned.
    ///
    /// # Errors
    /// `Stopped`; `Training` if the policy for what is not finite says so (the state from before is saved); whatever
    /// fails on disk.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<()> {
        let result = self.train(stop);
        let (reason, message) = match &result {
            Ok(()) => (events::Reason::Done, None),
            Err(Error::Stopped { .. }) => (events::Reason::Signal, None),
            Err(error) => (events::Reason::Error, Some(error.to_string())),
        };
        let elapsed_s = Some(self.began.elapsed().as_secs_f64());
        let end = Event::End(events::End { step: self.state.step, reason, message, elapsed_s });
        // If the log itself cannot be written, the first error is the one to show.
        let ended = self.record(end).and_then(|()| self.log.as_mut().map_or(Ok(()), EventWriter::sync));
        result.and(ended)
    }

    fn train(&mut self, stop: &AtomicBool) -> Result<()> {
        if self.state.step == 0 {
            self.evaluate()?;
            if self.job.stability.spike == Spike::Rollback {
                // Somewhere to go back to before the first checkpoint.
                self.save()?;
            }
        }
        while self.state.step < self.job.max_steps {
            // A signal may have reached one rank only: all stop at the step at which all know of it.
            let pulse = self.job.ranks.pulse(stop.load(Ordering::Relaxed))?;
            if pulse.stop {
                self.settle()?;
                self.save()?;
                return Err(Error::Stopped { step: self.state.step });
            }
            self.start_step()?;
            let step = self.state.step + self.in_flight.len() as u64;
            let last = step == self.job.max_steps;
            let sampling = self.job.sample.every != crate::setting::Interval::Off;
            let evaluates = last || self.job.eval.every.is_due(step);
            let samples = self.job.sample.every.is_due(step) || (last && sampling);
            let saves = last || self.job.checkpoint.every.is_due(step);
            let logs = step.is_multiple_of(self.job.train.log_every);
            if !(evaluates || samples || saves || logs || self.must_settle()) {
                continue;
            }
            self.settle()?;
            if self.state.step < step {
                // Gone back to a checkpoint: what is due at its step was done when it was written.
                continue;
            }
            if evaluates {
                self.evaluate()?;
            }
            if samples {
                self.write_samples()?;
            }
            if logs && let Some(spread) = spread(&pulse.busy_ms) {
                self.record_spread(spread)?;
            }
            if saves {
                self.save()?;
            } else if logs {
                self.log.as_mut().map_or(Ok(()), EventWriter::flush)?;
            }
        }
        Ok(())
    }

    /// One text for each prompt, always with the same draws, so that texts over time can be compared.
    fn write_samples(&mut self) -> Result<()> {
        let ranks = self.job.ranks.clone();
        ranks.on_root("samples", || self.write_samples_here()).map(|_| ())
    }

    fn write_samples_here(&mut self) -> Result<()> {
        let config = self.job.sample;
        let sampler = SamplerConfig {
            temperature: config.temperature,
            top_k: config.top_k,
            top_p: config.top_p,
            seed: self.job.run.seed,
            ..SamplerConfig::default()
        };
        self.last_samples.clear();
        for (index, prompt) in config.prompt.iter().enumerate() {
            let request = Request {
                prompt,
                max_new_tokens: config.max_new_tokens,
                stop: &[],
                sampler: &sampler,
                sample: index as u64,
            };
            // A model that has diverged writes nothing; that is no reason to stop its training.
            let text = match generate(self.model, self.engine.params(), self.job.tokenizer, &request, &mut |_| {}) {
                Ok(sample) => sample.text,
                Err(Error::Training(why)) => format!("[no sample: {why}]"),
                Err(error) => return Err(error),
            };
            let sample = events::Sample { step: self.state.step, prompt: prompt.clone(), text };
            self.last_samples.push(sample.clone());
            self.record(Event::Sample(sample))?;
        }
        Ok(())
    }

    /// Who computed longest in the last step, and how far the fastest is from it.
    fn record_spread(&mut self, spread: Spread) -> Result<()> {
        let Spread { slowest, slowest_ms, fastest_ms } = spread;
        let ranks = self.job.ranks.size() as u64;
        let slowest = slowest as u64;
        let (step, overlap) = (self.state.step, self.engine.overlaps());
        self.record(Event::Ranks(events::Ranks { step, ranks, slowest, slowest_ms, fastest_ms, overlap }))
    }

    /// The event of the checkpoint of the state as it is.
    fn saved(&self) -> Event {
        let step = self.state.step;
        let path = Store::of_run(Path::new("")).path(step).to_string_lossy().into_owned();
        Event::Checkpoint(events::Checkpoint { step, path, val_loss: self.state.val_loss })
    }

    /// Records that the run resumes from its checkpoint; `logged` is the log so far. A process that was killed after it
    /// had saved a checkpoint, and before it had said so, is made up for.
    ///
    /// # Errors
    /// If the log cannot be written.
    pub fn record_resume(&mut self, logged: &EventLog, time: Option<u64>) -> Result<()> {
        let step = self.state.step;
        if !logged.checkpoints().any(|checkpoint| checkpoint.step == step) {
            self.record(self.saved())?;
        }
        self.record(Event::Resume(events::Resume { step, time }))
    }
}
