//! Who computes a training step: the native engine, or the slow reference engine on candle.
//!
//! The loop is the same for both. An engine takes the micro-batches of a step, gives the loss and what became of the
//! gradients, and shows its parameters; validation, samples and checkpoints work from those.

mod buckets;
mod candle;
mod device_sums;
mod gpu;
mod native;
mod overlap;
mod team;

pub use candle::OnCandle;
pub use gpu::OnGpu;
pub use native::Native;
pub use team::Team;

use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::state::ArenaData;
use crate::collective::ordered::Shards;
use crate::data::{IGNORE, Loader, Rows};
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::model::gpt::{Loss, Pass};
use crate::nn::Dropout;
use crate::ops::classifier;
use crate::ops::documents::Documents;
use crate::optim::{OptimizerState, Outcome, ScaleState};
use crate::tape::{Gradients, Params, ReadyHook, Tape};
use crate::tensor::Tensor;

const _: () = assert!(IGNORE == classifier::IGNORE, "what data leaves out, the classifier leaves out");

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
    /// Tokens of the step, places that nothing fills included.
    pub fn tokens(&self) -> usize {
        self.micro_batch * self.micro_batches * self.loader.context_length()
    }

    /// Targets of the step that count: the step's loss is the mean over them.
    pub fn targets(&self) -> usize {
        let sequences = (self.micro_batch * self.micro_batches) as u64;
        let range = self.first_sequence..self.first_sequence + sequences;
        let targets: u64 = range.map(|sequence| self.loader.targets_of(sequence)).sum();
        // Every row has one; a division by zero must not depend on that.
        targets.max(1) as usize
    }

    /// One micro-batch, [micro_batch, T].
    ///
    /// # Errors
    /// If the data cannot be read or holds an id outside the vocabulary.
    pub fn read(&self, micro: usize) -> Result<Rows> {
        let mut rows = Rows::default();
        for row in self.rows(micro) {
            self.loader.append(self.first_sequence + u64::from(row), &mut rows)?;
        }
        Ok(rows)
    }

    /// The places of a micro-batch's sequences within the step.
    pub fn rows(&self, micro: usize) -> std::ops::Range<u32> {
        let first = (micro * self.micro_batch) as u32;
        first..first + self.micro_batch as u32
    }
}

/// What the training loop needs of whoever computes.
pub trait Engine {
    /// Starts one optimizer step at learning rate `lr`. A step that is not finite changes nothing. The work may still be
    /// on its way when this returns; [`Engine::finished`] tells what came of it.
    ///
    /// # Errors
    /// If data, memory or the device fail.
    fn step(&mut self, batch: &StepBatch, lr: f64) -> Result<()>;

    /// Loss and outcome of every step since the last call, in order. It waits for them.
    ///
    /// # Errors
    /// If the device fails.
    fn finished(&mut self) -> Result<Vec<(f64, Outcome)>>;

    /// How many steps may be started before [`Engine::finished`] must be called.
    fn max_in_flight(&self) -> u64 {
        1
    }

    /// Computes a micro-batch forward and backward without any effect: to warm up and to take the time.
    ///
    /// # Errors
    /// As [`Engine::step`].
    fn probe(&mut self, batch: &StepBatch) -> Result<()>;

    /// Whether gradients are sent to other ranks while the backward pass runs.
    fn overlaps(&self) -> bool {
        false
    }

    /// The weights as they are.
    fn params(&self) -> &Params;

    /// The state of the optimizer: its slots (flat, in arena layout), updates applied, and the loss scale of fp16. All ranks call
    /// it together, since each may hold a part.
    ///
    /// # Errors
    /// If the device fails.
    fn state(&self) -> Result<OptimizerState>;

    /// The elements whose optimizer state this rank holds.
    fn held(&self) -> Range<usize> {
        0..self.params().layout().trained()
    }

    /// Whether what each rank holds begins at a multiple of `chunk` elements. All ranks say the same.
    fn holds_chunks(&self, chunk: usize) -> bool {
        let _ = chunk;
        true
    }

    /// As [`Engine::state`], of some of the elements that this rank holds; other ranks have no part in it.
    ///
    /// # Errors
    /// If the device fails.
    fn state_of(&self, part: Range<usize>) -> Result<OptimizerState> {
        Ok(self.state()?.part(part))
    }

    /// Takes up what a checkpoint holds.
    ///
    /// # Errors
    /// If the buffers are not of this model's size, or the slots are of another rule.
    fn restore(&mut self, arena: &ArenaData, updates: u64, scale: Option<ScaleState>) -> Result<()>;
}

/// The settings of a run that both of our own engines need for a pass.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// `seed_dropout`.
    pub seed_dropout: u64,
    /// Whether blocks store only their input and run again in backward.
    pub recompute: bool,
    /// Lanes of gradient accumulation.
    pub lanes: usize,
}

impl Setup {
    fn pass(&self, model: &Gpt, batch: &StepBatch, micro: usize, loss_scale: Option<Tensor>) -> Pass {
        let probability = model.config().dropout;
        let dropout = (probability > 0.0).then(|| Dropout {
            seed: self.seed_dropout,
            step: batch.step,
            probability,
            sequences: batch.rows(micro).collect::<Arc<[u32]>>(),
        });
        let adapters = model.lora().map_or(0.0, |lora| lora.dropout);
        let adapter_dropout = (adapters > 0.0).then(|| Dropout {
            seed: self.seed_dropout,
            step: batch.step,
            probability: adapters,
            sequences: batch.rows(micro).collect::<Arc<[u32]>>(),
        });
        Pass { dropout, recompute: self.recompute, loss_scale, adapter_dropout, documents: None }
    }
}

/// Forward and backward of one micro-batch: adds the gradient of the step's mean loss to `grads`, gives the losses.
/// `hook` hears of every gradient that is complete.
fn micro_step<'a>(
    model: &'a Gpt,
    params: &'a Params,
    grads: &'a mut Gradients,
    batch: &StepBatch,
    micro: usize,
    pass: &'a Pass,
    hook: Option<ReadyHook<'a>>,
) -> Result<Loss> {
    let rows = batch.read(micro)?;
    let (b, t) = (batch.micro_batch, batch.loader.context_length());
    let inputs = Tensor::from_u32(&rows.inputs, &[b, t])?;
    let documents = match rows.begins.is_empty() {
        true => None,
        false => Some(Documents::new(&rows.begins, b, t, params.flat().device())?),
    };
    let pass = &Pass { documents, ..pass.clone() };
    let mut tape = Tape::training(params, grads);
    if let Some(hook) = hook {
        tape.on_ready(hook);
    }
    let loss = model.loss(&mut tape, &inputs, &rows.targets, 1.0 / batch.targets() as f32, pass)?;
    tape.backward(&loss.root, Tensor::from_f32(&[1.0], &[1])?)?;
    Ok(loss)
}

fn check_len(params: &Params, arena: &ArenaData) -> Result<()> {
    let len = params.layout().trained();
    let slots = arena.slots.iter().map(|(_, values)| values);
    if slots.chain([&arena.weights]).any(|buffer| buffer.len() != len) {
        return Err(Error::usage("the checkpoint is of a model of another shape than the config's"));
    }
    Ok(())
}

/// Whether the ranges of all ranks begin at multiples of `chunk` elements; where nothing is divided they do.
fn holds_chunks(shards: Option<&Shards>, chunk: usize, len: usize) -> bool {
    let begins = |range: &Range<usize>| range.start == len || range.start.is_multiple_of(chunk);
    shards.is_none_or(|shards| shards.ranges().iter().all(begins))
}
