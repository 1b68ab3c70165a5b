//! Training what is prepared.

use std::sync::atomic::AtomicBool;

use crate::checkpoint::state::TrainingState;
use crate::data::Sequences;
use crate::error::{Error, Result};
use crate::events::{Event, Start};
use crate::hub;
use crate::open::EngineKind;
use crate::optim::Hyper;
use crate::run::card;
use crate::run::hardware::{device_words, peak_flops};
use crate::run::prepare::{Begin, Prepared};
use crate::run::ranks::team;
use crate::run::summary::summary;
use crate::tape::Params;
use crate::train::config::Nonfinite;
use crate::train::engine::{Native, OnCandle, OnGpu, Setup};
use crate::train::trainer::CardWriter;
use crate::train::{Engine, Findings, Job, Observer, Trainer, save};
use crate::ui::Ui;

/// What came of a training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trained {
    /// Finished steps, those before a resumption included.
    pub step: u64,
    /// The training loss of the last step, in nats per token; none where no step was made, and on ranks other than 0.
    pub loss: Option<f64>,
    /// The last validation loss, in nats per token.
    pub val_loss: Option<f64>,
}

impl Observer for Trained {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Step(step) => self.loss = Some(step.loss),
            Event::Eval(eval) => self.val_loss = Some(eval.loss),
            _ => {}
        }
    }
}

impl Prepared {
    /// Trains to the last step and writes checkpoints and the event log; `observers` watch, on rank 0. `stop` may be
    /// set at any time, by a signal for one: then the state is saved and `Error::Stopped` returned. All processes of a
    /// run call it together.
    ///
    /// A run that [`Prepared::is_finished`] trains nothing.
    ///
    /// # Errors
    /// `Stopped`; `Training` if the policy for what is not finite says so (the state from before is saved); whatever
    /// fails on disk or on the device. After an error the folder can be resumed, and this value cannot be trained
    /// again.
    pub fn train(&mut self, observers: &mut [&mut dyn Observer], stop: &AtomicBool, ui: &dyn Ui) -> Result<Trained> {
        let Some(begin) = self.begin.take() else {
            return Ok(Trained { step: self.max_steps, ..Trained::default() });
        };
        let (run, ranks) = (self.run.clone(), self.ranks.clone());
        let (trained, result) = self.train_from(begin, observers, stop, ui)?;
        let mut finish = || observers.iter_mut().for_each(|observer| observer.finish(&run, stop));
        if matches!(result, Ok(()) | Err(Error::Stopped { .. })) {
            // Launchers end a job at the first process that exits with 3: rank 0 finishes first.
            ranks.on_root_for_long("the end", || {
                finish();
                Ok(())
            })?;
        } else if ranks.is_root() {
            finish();
        }
        result.map(|()| trained)
    }

    /// Makes a trainer and lets it run: what came of it, and how the run ended. An error where it did not even begin.
    fn train_from(
        &self,
        begin: Begin,
        observers: &mut [&mut dyn Observer],
        stop: &AtomicBool,
        ui: &dyn Ui,
    ) -> Result<(Trained, Result<()>)> {
        let Begin { params, found, logged, log } = begin;
        let mut last = Trained::default();
        let card = |state: &TrainingState, findings: Findings<'_>| card::card(self, state, findings);
        let job = self.job(self.base(&params)?, &card)?;
        let mut trainer = Trainer::new(job, &self.model, self.engine(params)?, log)?;
        if let Some((state, arena)) = found {
            trainer.restore(state, &arena)?;
        }
        let probe = trainer.probe()?;
        ui.info(&summary(self, probe, trainer.step()));
        if self.ranks.is_root() {
            observers.iter_mut().for_each(|observer| trainer.observe(&mut **observer));
            trainer.observe(&mut last);
            match logged {
                Some(logged) => trainer.record_resume(&logged, now())?,
                None => trainer.record(self.start_event())?,
            }
        }
        let result = trainer.run(stop);
        let step = trainer.step();
        drop(trainer);
        Ok((Trained { step, ..last }, result))
    }

    /// Everything that the trainer is told.
    fn job<'a>(&'a self, base: Option<save::Base>, card: &'a CardWriter<'a>) -> Result<Job<'a>> {
        let config = &self.config;
        Ok(Job {
            folder: &self.run,
            run: &config.run,
            train: &config.train,
            optimizer: &config.optimizer,
            schedule: &config.schedule,
            stability: &config.stability,
            eval: &config.eval,
            checkpoint: &config.checkpoint,
            sample: &config.sample,
            tokenizer: &self.tokenizer,
            data: self.streams.train.clone(),
            shuffle: config.data.shuffle,
            val: self.streams.val.as_ref(),
            tasks: &self.tasks,
            micro_batch: self.micro_batch(),
            global_batch: config.train.global_batch(),
            max_steps: self.max_steps,
            config_hash: config.hash(),
            hardware: self.device.hardware_kind()?,
            base,
            card,
            peak_flops: peak_flops(self.device, self.precision()).map(|peak| peak * self.ranks.size() as f64),
            ranks: self.ranks.clone(),
            is_shared: self.is_shared,
        })
    }

    fn engine(&self, params: Params) -> Result<Box<dyn Engine + '_>> {
        let config = &self.config;
        let hyper = Hyper { optimizer: config.optimizer, clip_norm: config.stability.clip_norm.value() };
        Ok(match self.engine {
            EngineKind::Native => {
                let (seed_dropout, recompute) = (config.run.seed_dropout(), config.train.recompute);
                let setup = Setup { seed_dropout, recompute, lanes: self.lanes() };
                let team = team(&self.ranks, config);
                match self.device.gpu()? {
                    None => {
                        let params = params.with_compute(self.precision().dtype())?;
                        Box::new(Native::in_team(&self.model, params, hyper, setup, team)?)
                    }
                    Some(gpu) => {
                        let stop = config.stability.nonfinite == Nonfinite::Error;
                        let model = &self.model;
                        Box::new(OnGpu::in_team(gpu, model, &params, hyper, setup, self.precision(), stop, team)?)
                    }
                }
            }
            EngineKind::Reference if matches!(self.streams.train, Sequences::Packed(_)) => {
                return Err(Error::usage(
                    "--engine reference trains on running text; data.format = \"chat\" needs the native engine",
                ));
            }
            EngineKind::Reference if self.model.lora().is_some() => {
                return Err(Error::usage(
                    "--engine reference trains all parameters; lora.rank needs the native engine",
                ));
            }
            EngineKind::Reference => Box::new(OnCandle::new(&self.model, params, hyper)?),
        })
    }

    /// What adapters correct.
    fn base(&self, params: &Params) -> Result<Option<save::Base>> {
        let (Some(folder), Some(name), Some(_)) = (&self.init_from, &self.config.model.init_from, self.model.lora())
        else {
            return Ok(None);
        };
        let name = match hub::names_hub(name) {
            true => name.clone(),
            // The folder must be found from wherever the adapters are opened.
            false => std::path::absolute(folder).map_err(Error::io("find", folder))?.to_string_lossy().into_owned(),
        };
        Ok(Some(save::Base::new(name, params)))
    }

    fn start_event(&self) -> Event {
        Event::Start(Box::new(Start {
            version: env!("CARGO_PKG_VERSION").into(),
            config_hash: self.config.hash(),
            parameters: self.model.layout().parameters() as u64,
            tokens_per_step: (self.config.train.global_batch() * self.model.config().context_length) as u64,
            max_steps: Some(self.max_steps),
            clip_norm: self.config.stability.clip_norm.value(),
            memory_bytes: Some(self.predicted_bytes()),
            flops_per_token: Some(self.model.config().flops_per_token() as f64),
            device: Some(device_words(self.device)),
            time: now(),
        }))
    }
}

/// Seconds since 1970.
fn now() -> Option<u64> {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}
