//! The reference engine: candle, with its own autodiff and AdamW.

use super::{Engine, StepBatch, check_len};
use crate::checkpoint::state::ArenaData;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::optim::config::{OptimizerConfig, OptimizerKind};
use crate::optim::{Class, Hyper, OptimizerState, Outcome, ScaleState};
use crate::reference::{AdamWSettings, Precision, Reference, ReferenceTrainer};
use crate::tape::{ParamId, Params};

/// The slots of AdamW, as the native engines name them.
const SLOTS: [&str; 2] = ["m", "v"];

/// Slow, without dropout, and an independent truth.
pub struct OnCandle {
    trainer: ReferenceTrainer,
    settings: AdamWSettings,
    /// A copy of candle's weights in arena layout, renewed after each step.
    params: Params,
    model: crate::arch::ModelConfig,
    finished: Vec<(f64, Outcome)>,
}

impl OnCandle {
    /// An engine with these weights and a fresh optimizer.
    ///
    /// # Errors
    /// If the model has dropout, or the optimizer is not AdamW.
    pub fn new(model: &Gpt, params: Params, hyper: Hyper) -> Result<OnCandle> {
        let Hyper { optimizer: OptimizerConfig { kind, beta1, beta2, eps, weight_decay, .. }, clip_norm } = hyper;
        match kind {
            OptimizerKind::Adamw => {}
            #[cfg(test)]
            OptimizerKind::Momentum => return Err(Error::usage("--engine reference trains with AdamW")),
        }
        let settings = AdamWSettings { beta1, beta2, eps, weight_decay, clip_norm };
        let trainer = ReferenceTrainer::new(reference(model.config(), &params)?, settings)?;
        Ok(OnCandle { trainer, settings, params, model: model.config().clone(), finished: Vec::new() })
    }

    fn renew(&mut self) -> Result<()> {
        for (name, _, values) in self.trainer.model().parameters()? {
            let id = self.params.layout().find(&name);
            let id = id.ok_or_else(|| Error::Training(format!("the engines disagree about the parameter {name}")))?;
            self.params.set(id, &values)?;
        }
        Ok(())
    }
}

fn reference(config: &crate::arch::ModelConfig, params: &Params) -> Result<Reference> {
    let layout = params.layout().clone();
    let flat = params.flat().f32();
    let values = layout.infos().iter().map(|info| (info.name.as_str(), info.shape.as_slice(), &flat[info.range()]));
    Reference::new(config, values, Precision::F32)
}

impl Engine for OnCandle {
    fn step(&mut self, batch: &StepBatch, lr: f64) -> Result<()> {
        let read = (0..batch.micro_batches).map(|micro| batch.read(micro)).collect::<Result<Vec<_>>>()?;
        if read.iter().any(|batch| !batch.weights.is_empty() || !batch.begins.is_empty()) {
            return Err(Error::usage(
                "--engine reference trains on running text, in which every token counts the same",
            ));
        }
        let batches: Vec<(&[u32], &[u32])> = read.iter().map(|rows| (&rows.inputs[..], &rows.targets[..])).collect();
        let done = self.trainer.step(&batches, batch.micro_batch, batch.loader.context_length(), lr)?;
        self.renew()?;
        let norm = done.grad_norm as f32;
        let clip = self.settings.clip_norm.map(|clip| clip as f32).filter(|&clip| norm > clip);
        let (class, norm_clipped) = match clip {
            _ if !done.loss.is_finite() => (Class::LossNonFinite, norm),
            _ if norm.is_nan() => (Class::NonFinite(ParamId(0)), norm),
            _ if !done.applied => (Class::Overflow, norm),
            Some(clip) => (Class::Clipped, clip),
            None => (Class::Finite, norm),
        };
        self.finished.push((done.loss, Outcome { class, norm, norm_clipped }));
        Ok(())
    }

    fn finished(&mut self) -> Result<Vec<(f64, Outcome)>> {
        Ok(std::mem::take(&mut self.finished))
    }

    fn probe(&mut self, batch: &StepBatch) -> Result<()> {
        let Batch { inputs, targets, .. } = batch.read(0)?;
        let length = batch.loader.context_length();
        self.trainer.model().loss_and_grads(&inputs, &targets, batch.micro_batch, length).map(|_| ())
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn state(&self) -> Result<OptimizerState> {
        let (updates, moments) = self.trainer.state()?;
        let len = self.params.layout().len();
        let (mut m, mut v) = (vec![0.0; len], vec![0.0; len]);
        for (info, (first, second)) in self.params.layout().infos().iter().zip(&moments) {
            m[info.range()].copy_from_slice(first);
            v[info.range()].copy_from_slice(second);
        }
        let slots = SLOTS.map(String::from).into_iter().zip([m, v]).collect();
        Ok(OptimizerState { slots, updates, scale: None })
    }

    fn restore(&mut self, arena: &ArenaData, updates: u64, scale: Option<ScaleState>) -> Result<()> {
        check_len(&self.params, arena)?;
        let state = OptimizerState { slots: arena.slots.clone(), updates, scale };
        let [Some(m), Some(v)] = SLOTS.map(|name| state.slot(name)) else {
            return Err(Error::usage(
                "the checkpoint's optimizer is not AdamW, and --engine reference trains with that",
            ));
        };
        self.params.load(&arena.weights)?;
        self.trainer = ReferenceTrainer::new(reference(&self.model, &self.params)?, self.settings)?;
        let infos = self.params.layout().infos();
        let moments: Vec<_> = infos.iter().map(|info| (m[info.range()].to_vec(), v[info.range()].to_vec())).collect();
        self.trainer.restore(updates, &moments)
    }
}
