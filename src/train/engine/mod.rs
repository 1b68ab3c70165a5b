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
pub mod step_batch;
mod team;

pub use candle::OnCandle;
pub use gpu::OnGpu;
pub use native::Native;
pub use step_batch::StepBatch;
pub use team::Team;

use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::state::ArenaData;
use crate::collective::ordered::Shards;
use crate::data::IGNORE;
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::model::gpt::{Loss, Pass};
use crate::nn::Dropout;
use crate::ops::classifier;
use crate::ops::documents::Documents;
use crate::optim::{OptimizerState, Outcome, ScaleState};
use crate::tape::{Gradients, Params, ReadyHook, Tape};
use crate::tensor::Tensor;
use crate::train::objective::{NextToken, Objective};

const _: () = assert!(IGNORE == classifier::IGNORE, "what data leaves out, the classifier leaves out");

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

    /// Whether nothing in a step counts for the loss: then that is 0, and so are all gradients.
    fn is_empty(&self, batch: &StepBatch) -> bool {
        NextToken.is_empty(batch)
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

    /// The state of the optimizer: its slots (flat, in arena layout), updates applied, and the loss scale of fp16. All
    /// ranks call it together, since each may hold a part.
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

/// Forward and backward of one micro-batch: adds the gradient of the step's loss, whose denominator is given, to
/// `grads`; gives the losses. `hook` hears of every gradient that is complete.
fn micro_step<'a>(
    (objective, denominator): (&dyn Objective, f64),
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
    let loss = objective.loss(model, &mut tape, &inputs, &rows, denominator, pass)?;
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
