//! How several ranks share the work of a step.

use std::ops::Range;

use crate::collective::ordered::Shards;
use crate::collective::ranks::Summation;
use crate::collective::{Ranks, Wire};
use crate::error::{Error, Result};
use crate::optim::rule::Cut;
use crate::tape::Layout;

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

    /// How the optimizer's state is divided among the ranks: between whole parameters where the rule wants that, else as
    /// `anywhere` says; `None` where each rank keeps all of it.
    pub(super) fn shards(&self, layout: &Layout, cut: Cut, anywhere: impl FnOnce() -> Shards) -> Option<Shards> {
        self.is_sharded().then(|| match cut {
            Cut::Anywhere => anywhere(),
            Cut::BetweenParameters => {
                let starts: Vec<usize> = layout.trained_infos().map(|(_, range)| range.start).collect();
                Shards::between(layout.trained(), self.ranks.size(), &starts)
            }
        })
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

    /// Adds `window` of the gradients over all ranks: all have the sum, or each that of its part of `shards`. `data`
    /// holds the window.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub(super) fn reduce(&self, data: &mut [f32], window: &Range<usize>, shards: Option<&Shards>) -> Result<()> {
        match shards {
            Some(shards) => self.ranks.reduce_scatter("gradients", data, &shards.within(window), self.summation),
            None => self.ranks.all_reduce("gradients", data, self.summation),
        }
    }

    /// The micro-batches of this rank's lanes, of `count` in the step.
    pub fn micro_batches(&self, count: usize) -> Range<usize> {
        let each = count / self.ranks.size();
        self.ranks.rank() * each..(self.ranks.rank() + 1) * each
    }
}
