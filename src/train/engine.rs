//! Who computes a training step: the native engine, or the slow reference engine on candle.
//!
//! The loop is the same for both. An engine takes the micro-batches of a step, gives the loss and what became of the
//! gradients, and shows its parameters; validation, samples and checkpoints work from those.

use std::sync::Arc;

use crate::checkpoint::state::ArenaData;
use crate::data::Loader;
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::model::gpt::Pass;
use crate::nn::Dropout;
use crate::optim::{Class, Hyper, Optimizer, Outcome};

use crate::reference::{AdamWSettings, Precision, Reference, ReferenceTrainer};
use crate::tape::{Gradients, ParamId, Params, Tape};
use crate::tensor::Tensor;
use crate::train::lanes::LaneTree;

/// The sequences of one optimizer step.
pub struct StepBatch {
    /// Where sequences come from (a clone shares the data).
    pub loader: Loader,
    /// The global index of the step's first sequence.
    pub first_sequence: u64,
    /// Sequences of one pass.
    pub micro_batch: usize,
    /// Passes of the step.
    pub micro_batches: usize,
    /// Finished steps: part of the key of dropout masks.
    pub step: u64,
}

impl StepBatch {
    /// Tokens of the step.
    pub fn tokens(&self) -> usize {
        self.micro_batch * self.micro_batches * self.loader.context_length()
    }

    /// Inputs and targets, [micro_batch, T] each, of one micro-batch.
    ///
    /// # Errors
    /// If the data cannot be read or holds an id outside the vocabulary.
    pub fn read(&self, micro: usize) -> Result<(Vec<u32>, Vec<u32>)> {
        let t = self.loader.context_length();
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        let mut sequence = vec![0; t + 1];
        for row in self.rows(micro) {
            self.loader.fill(self.first_sequence + u64::from(row), &mut sequence)?;
            inputs.extend_from_slice(&sequence[..t]);
            targets.extend_from_slice(&sequence[1..]);
        }
        Ok((inputs, targets))
    }

    /// The places of a micro-batch's sequences within the step.
    pub fn rows(&self, micro: usize) -> std::ops::Range<u32> {
        let first = (micro * self.micro_batch) as u32;
        first..first + self.micro_batch as u32
    }
}

/// What the training loop needs of whoever computes.
pub trait Engine {
    /// One optimizer step at learning rate `lr`. A step that is not finite changes nothing.
    ///
    /// # Errors
    /// If data, memory or the device fail.
    fn step(&mut self, batch: &StepBatch, lr: f64) -> Result<(f64, Outcome)>;

    /// Computes a micro-batch forward and backward without any effect: to warm up and to take the time.
    ///
    /// # Errors
    /// As [`Engine::step`].
    fn probe(&mut self, batch: &StepBatch) -> Result<()>;

    /// The weights as they are.
    fn params(&self) -> &Params;

    /// First moments, second moments (flat, in arena layout), and updates applied.
    ///
    /// # Errors
    /// If the device fails.
    fn moments(&self) -> Result<(Vec<f32>, Vec<f32>, u64)>;

    /// Takes up what a checkpoint holds.
    ///
    /// # Errors
    /// If the buffers are not of this model's size.
    fn restore(&mut self, arena: &ArenaData, updates: u64) -> Result<()>;
}

/// The engine of this project.
pub struct Native<'a> {
    model: &'a Gpt,
    params: Params,
    optimizer: Optimizer,
    lanes: LaneTree,
    seed_dropout: u64,
    recompute: bool,
}

impl<'a> Native<'a> {
    /// An engine with these weights and fresh moments.
    ///
    /// # Errors
    /// If memory cannot be had, or `lanes` is not a power of two.
    pub fn new(
        model: &'a Gpt,
        params: Params,
        hyper: Hyper,
        lanes: usize,
        seed_dropout: u64,
        recompute: bool,
    ) -> Result<Native<'a>> {
        let optimizer = Optimizer::new(hyper, &params)?;
        Ok(Native { model, params, optimizer, lanes: LaneTree::new(lanes)?, seed_dropout, recompute })
    }
}

/// Forward and backward of one micro-batch: adds the gradient of the step's mean loss to `grads`, gives the sum of losses.
fn micro_step(
    model: &Gpt,
    params: &Params,
    grads: &mut Gradients,
    batch: &StepBatch,
    micro: usize,
    pass: &Pass,
) -> Result<f64> {
    let (inputs, targets) = batch.read(micro)?;
    let inputs = Tensor::from_u32(&inputs, &[batch.micro_batch, batch.loader.context_length()])?;
    let mut tape = Tape::training(params, grads);
    let loss = model.loss(&mut tape, &inputs, &targets, 1.0 / batch.tokens() as f32, pass)?;
    let root = loss.root;
    tape.backward(&root, Tensor::from_f32(&[1.0], &[1])?)?;
    Ok(loss.sum)
}

impl Native<'_> {
    fn pass(&self, batch: &StepBatch, micro: usize) -> Pass {
        let probability = self.model.config().dropout;
        let dropout = (probability > 0.0).then(|| Dropout {
            seed: self.seed_dropout,
            step: batch.step,
            probability,
            sequences: batch.rows(micro).collect::<Arc<[u32]>>(),
        });
        Pass { dropout, recompute: self.recompute }
    }
}

impl Engine for Native<'_> {
    fn step(&mut self, batch: &StepBatch, lr: f64) -> Result<(f64, Outcome)> {
        // The tree is taken out for the time of the step, because a micro-batch borrows the rest of the engine.
        let mut lanes = std::mem::replace(&mut self.lanes, LaneTree::new(1)?);
        let summed = lanes.step(&self.params, batch.micro_batches, |micro, grads| {
            micro_step(self.model, &self.params, grads, batch, micro, &self.pass(batch, micro))
        });
        let done = summed.and_then(|(sum, grads)| {
            let loss = sum / batch.tokens() as f64;
            Ok((loss, self.optimizer.step(&mut self.params, grads.get(), loss, lr)?))
        });
        self.lanes = lanes;
        done
    }

    fn probe(&mut self, batch: &StepBatch) -> Result<()> {
        let mut grads = Gradients::zeros_like(&self.params)?;
        micro_step(self.model, &self.params, &mut grads, batch, 0, &self.pass(batch, 0)).map(|_| ())
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn moments(&self) -> Result<(Vec<f32>, Vec<f32>, u64)> {
        let (m, v, t) = self.optimizer.state();
        Ok((m.f32().to_vec(), v.f32().to_vec(), t))
    }

    fn restore(&mut self, arena: &ArenaData, updates: u64) -> Result<()> {
        check_len(&self.params, arena)?;
        self.params.flat_mut().f32_mut().copy_from_slice(&arena.weights);
        self.optimizer.restore(&arena.m, &arena.v, updates);
        Ok(())
    }
}

fn check_len(params: &Params, arena: &ArenaData) -> Result<()> {
    let len = params.layout().len();
    if [&arena.weights, &arena.m, &arena.v].iter().any(|buffer| buffer.len() != len) {
        return Err(Error::usage("the checkpoint is of a model of another shape than the config's"));
    }
    Ok(())
}

/// The reference engine: candle, with its own autodiff and AdamW. Slow, without dropout, and an independent truth.
pub struct OnCandle {
    trainer: ReferenceTrainer,
    settings: AdamWSettings,
    /// A copy of candle's weights in arena layout, renewed after each step.
    params: Params,
    model: crate::model::ModelConfig,
}

impl OnCandle {
    /// An engine with these weights and fresh moments.
    ///
    /// # Errors
    /// If the model has dropout.
    pub fn new(model: &Gpt, params: Params, hyper: Hyper) -> Result<OnCandle> {
        let Hyper { beta1, beta2, eps, weight_decay, clip_norm } = hyper;
        let settings = AdamWSettings { beta1, beta2, eps, weight_decay, clip_norm };
        let trainer = ReferenceTrainer::new(reference(model.config(), &params)?, settings)?;
        Ok(OnCandle { trainer, settings, params, model: model.config().clone() })
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

fn reference(config: &crate::model::ModelConfig, params: &Params) -> Result<Reference> {
    let layout = params.layout().clone();
    let flat = params.flat().f32();
    let values = layout.infos().iter().map(|info| (info.name.as_str(), info.shape.as_slice(), &flat[info.range()]));
    Reference::new(config, values, Precision::F32)
}

impl Engine for OnCandle {
    fn step(&mut self, batch: &StepBatch, lr: f64) -> Result<(f64, Outcome)> {
        let read = (0..batch.micro_batches).map(|micro| batch.read(micro)).collect::<Result<Vec<_>>>()?;
        let batches: Vec<(&[u32], &[u32])> = read.iter().map(|(inputs, targets)| (&inputs[..], &targets[..])).collect();
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
        Ok((done.loss, Outcome { class, norm, norm_clipped }))
    }

    fn probe(&mut self, batch: &StepBatch) -> Result<()> {
        let (inputs, targets) = batch.read(0)?;
        let length = batch.loader.context_length();
        self.trainer.model().loss_and_grads(&inputs, &targets, batch.micro_batch, length).map(|_| ())
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn moments(&self) -> Result<(Vec<f32>, Vec<f32>, u64)> {
        let (updates, moments) = self.trainer.state()?;
        let len = self.params.layout().len();
        let (mut m, mut v) = (vec![0.0; len], vec![0.0; len]);
        for (info, (first, second)) in self.params.layout().infos().iter().zip(&moments) {
            m[info.range()].copy_from_slice(first);
            v[info.range()].copy_from_slice(second);
        }
        Ok((m, v, updates))
    }

    fn restore(&mut self, arena: &ArenaData, updates: u64) -> Result<()> {
        check_len(&self.params, arena)?;
        self.params.flat_mut().f32_mut().copy_from_slice(&arena.weights);
        self.trainer = ReferenceTrainer::new(reference(&self.model, &self.params)?, self.settings)?;
        let infos = self.params.layout().infos();
        let moments: Vec<_> =
            infos.iter().map(|info| (arena.m[info.range()].to_vec(), arena.v[info.range()].to_vec())).collect();
        self.trainer.restore(updates, &moments)
    }
}
