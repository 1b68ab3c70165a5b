//! How several ranks share the work of a step.

use std::ops::Range;

use crate::collective::ranks::Summation;
use crate::collective::{Ranks, Wire};
use crate::error::{Error, Result};

/// The ranks of a run, and how they share the work of a step.
#[derive(Clone)]
pub struct Team {
    /// This process among the others.
    pub ranks: Ranks,
    /// How gradients are summed.
    pub summation: Summation,
    /// Whether each rank keeps its part of the optimizer's state only.
    pub shard_optimizer: bool,
    /// The fewest elements of gradients that are sent together while backward runs; 0 sends all of them after it.
    pub bucket: usize,
}

impl Team {
    /// A process on its own.
    pub fn alone() -> Team {
        let summation = Summation { ordered: true, wire: Wire::F32 };
        Team { ranks: Ranks::alone(), summation, shard_optimizer: false, bucket: 0 }
    }

    /// Whether this rank keeps only a part of the optimizer's state.
    pub fn is_sharded(&self) -> bool {
        self.shard_optimizer && self.ranks.size() > 1
    }

    /// The elements, of `len`, whose optimizer state this rank keeps (on a CPU).
    pub fn held(&self, len: usize) -> Range<usize> {
        if self.is_sharded() { self.ranks.shards(len).range(self.ranks.rank()) } else { 0..len }
    }

    /// The lanes of `lanes` that this rank has.
    ///
    /// # Errors
    /// `Usage` if the ranks do not divide them: then there is no common tree of sums.
    pub fn lanes(&self, lanes: usize) -> Result<usize> {
        let size = self.ranks.size();
        if size.is_power_of_two() && lanes.is_multiple_of(size) {
            return Ok(lanes / size);
        }
        Err(Error::usage(format!(
            "{size} processes cannot share {lanes} lane(s): their number must be a power of two that divides dist.lanes (by default \
             the largest power of two up to 8 that divides train.global_batch / train.micro_batch); change the number of \
             processes, or lower train.micro_batch"
        )))
    }

    /// Adds `window` of the gradients, of which there are `len`, over all ranks: all have the sum, or each that of its part where
    /// the optimizer's state is sharded. `data` holds the window.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn reduce(&self, data: &mut [f32], window: &Range<usize>, len: usize) -> Result<()> {
        match self.is_sharded() {
            true => {
                let ranges = self.ranks.shards(len).within(window);
                self.ranks.reduce_scatter("gradients", data, &ranges, self.summation)
            }
            false => self.ranks.all_reduce("gradients", data, self.summation),
        }
    }

    /// The micro-batches of this rank's lanes, of `count` in the step.
    pub fn micro_batches(&self, count: usize) -> Range<usize> {
        let each = count / self.ranks.size();
        self.ranks.rank() * each..(self.ranks.rank() + 1) * each
    }
}
