//! What training minimises: a loss of each micro-batch, and what the losses of a step are divided by.
//!
//! A step's loss is one quotient: the losses of all its micro-batches, on all ranks, over one denominator. That is
//! known before the first backward pass, and is an integer or a sum in f64 in the order of the step's sequences: every
//! rank computes the same, and no mean of means is ever taken. A rank whose sequences count for nothing computes its
//! passes and joins every collective like the others.

pub mod next_token;

pub use next_token::NextToken;

use std::fmt::Debug;

use crate::data::Batch;
use crate::error::Result;
use crate::model::Gpt;
use crate::model::gpt::{Loss, Pass};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::train::engine::step_batch::StepBatch;

/// An objective.
pub trait Objective: Debug + Send + Sync {
    /// What the losses of a step are divided by: of all its sequences, those of other ranks included. Never 0: where nothing
    /// counts it is 1, and the loss is 0.
    fn denominator(&self, step: &StepBatch) -> f64;

    /// Whether nothing in the step counts, so that it teaches nothing.
    fn is_empty(&self, step: &StepBatch) -> bool;

    /// The losses of one micro-batch, of inputs `tokens` [B, T] of which `batch` tells the rest. On a training tape the root
    /// leads back to the gradient of their sum over the `denominator`.
    ///
    /// # Errors
    /// If memory or the device fails.
    fn loss<'a>(
        &self,
        model: &'a Gpt,
        tape: &mut Tape<'a>,
        tokens: &Tensor,
        batch: &Batch,
        denominator: f64,
        pass: &Pass,
    ) -> Result<Loss>;
}
