//! The sequences of one optimizer step.

use crate::data::{Batch, Loader};
use crate::error::Result;

/// The sequences of one optimizer step, over all ranks.
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

    /// The step's sequences, those of other ranks included.
    pub fn sequences(&self) -> std::ops::Range<u64> {
        self.first_sequence..self.first_sequence + (self.micro_batch * self.micro_batches) as u64
    }

    /// One micro-batch, [micro_batch, T].
    ///
    /// # Errors
    /// If the data cannot be read or holds an id outside the vocabulary.
    pub fn read(&self, micro: usize) -> Result<Batch> {
        let mut batch = Batch::default();
        for row in self.rows(micro) {
            self.loader.append(self.first_sequence + u64::from(row), &mut batch)?;
        }
        Ok(batch)
    }

    /// The places of a micro-batch's sequences within the step.
    pub fn rows(&self, micro: usize) -> std::ops::Range<u32> {
        let first = (micro * self.micro_batch) as u32;
        first..first + self.micro_batch as u32
    }
}
