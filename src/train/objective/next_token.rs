//! The cross-entropy of the next token: the mean over the targets that count, each with its weight.

use super::Objective;
use crate::data::Batch;
use crate::error::Result;
use crate::model::Gpt;
use crate::model::gpt::{Loss, Pass};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::train::engine::step_batch::StepBatch;

/// The cross-entropy of the next token, of text and of the answers of conversations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextToken;

impl NextToken {
    /// The weights of the step's targets that count, row after row. Without weights it is their number, exactly.
    fn weight(step: &StepBatch) -> f64 {
        step.sequences().fold(0.0, |sum, sequence| sum + step.loader.weight_of(sequence))
    }
}

impl Objective for NextToken {
    fn denominator(&self, step: &StepBatch) -> f64 {
        match NextToken::weight(step) {
            0.0 => 1.0,
            weight => weight,
        }
    }

    fn is_empty(&self, step: &StepBatch) -> bool {
        NextToken::weight(step) == 0.0
    }

    fn loss<'a>(
        &self,
        model: &'a Gpt,
        tape: &mut Tape<'a>,
        tokens: &Tensor,
        batch: &Batch,
        denominator: f64,
        pass: &Pass,
    ) -> Result<Loss> {
        model.loss_weighted(tape, tokens, &batch.targets, &batch.weights, 1.0 / denominator as f32, pass)
    }
}
