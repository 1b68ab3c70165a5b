//! Gradient accumulation in an order that the number of devices does not change.
//!
//! The micro-batches of a step are split into lanes. Inside a lane gradients accumulate in place, in order; lane sums meet
//! in a fixed binary tree. A device that holds an aligned part of the lanes computes a whole subtree, so any power of two
//! of devices gives the same bits. Walking the lanes in order with a stack (a binary counter) needs log2(lanes) + 1
//! buffers.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::tape::{Gradients, Params};
use crate::tensor::element::add_assign;

/// The default number of lanes: the largest power of two up to 8 that divides the number of micro-batches.
pub fn default_lanes(micro_batches: usize) -> usize {
    [8, 4, 2].into_iter().find(|lanes| micro_batches.is_multiple_of(*lanes)).unwrap_or(1)
}

/// The lanes of a new run on so many ranks that the default is too few for them, if there can be so many.
pub fn lanes_of_many(micro_batches: usize, ranks: usize) -> Option<usize> {
    let fits = ranks.is_power_of_two() && micro_batches.is_multiple_of(ranks);
    (fits && ranks > default_lanes(micro_batches)).then_some(ranks)
}

/// Gradient buffers that [`LaneTree`] needs for so many lanes.
pub fn buffers(lanes: usize) -> usize {
    lanes.ilog2() as usize + 1
}

struct Sum {
    grads: Gradients,
    loss: f64,
    level: u32,
}

/// The sums of one step on their way up the tree. Buffers are kept from step to step.
pub struct LaneTree {
    lanes: usize,
    stack: Vec<Sum>,
    free: Vec<Gradients>,
}

impl LaneTree {
    /// A tree for `lanes` lanes.
    ///
    /// # Errors
    /// If `lanes` is not a power of two.
    pub fn new(lanes: usize) -> Result<LaneTree> {
        if !lanes.is_power_of_two() {
            return Err(Error::usage(format!("dist.lanes = {lanes} must be a power of two")));
        }
        Ok(LaneTree { lanes, stack: Vec::new(), free: Vec::new() })
    }

    /// Runs the micro-batches `0..count` of a step: `run` adds a micro-batch's gradient to the buffer it is given and
    /// returns its loss (a sum over tokens). Calls `done` with the gradient and loss of the whole step.
    ///
    /// # Errors
    /// Those of `run`, or if memory cannot be had.
    ///
    /// # Panics
    /// If the lanes do not divide `count`.
    pub fn step(
        &mut self,
        params: &Params,
        count: usize,
        mut run: impl FnMut(usize, &mut Gradients) -> Result<f64>,
    ) -> Result<(f64, StepGradients<'_>)> {
        self.walk(params, count, false, |micro, grads, _| run(micro, grads))
    }

    /// As [`LaneTree::step`], for a step whose sums leave piece by piece while its last backward pass runs: with the
    /// last micro-batch `run` gets the lanes before, and must see to it that [`Earlier::add_to`] was called once for
    /// every element of the gradient.
    ///
    /// # Errors
    /// As [`LaneTree::step`].
    ///
    /// # Panics
    /// As [`LaneTree::step`].
    pub fn step_in_pieces(
        &mut self,
        params: &Params,
        count: usize,
        run: impl FnMut(usize, &mut Gradients, Option<Earlier<'_>>) -> Result<f64>,
    ) -> Result<(f64, StepGradients<'_>)> {
        self.walk(params, count, true, run)
    }

    fn walk(
        &mut self,
        params: &Params,
        count: usize,
        in_pieces: bool,
        mut run: impl FnMut(usize, &mut Gradients, Option<Earlier<'_>>) -> Result<f64>,
    ) -> Result<(f64, StepGradients<'_>)> {
        assert!(count.is_multiple_of(self.lanes), "{} lanes for {count} micro-batches", self.lanes);
        self.free.extend(self.stack.drain(..).map(|sum| sum.grads));
        let per_lane = count / self.lanes;
        for lane in 0..self.lanes {
            let mut grads = match self.free.pop() {
                Some(mut grads) => {
                    grads.clear()?;
                    grads
                }
                None => Gradients::zeros_like(params)?,
            };
            let mut loss = 0.0;
            for micro in lane * per_lane..(lane + 1) * per_lane {
                let earlier = (in_pieces && micro + 1 == count).then(|| Earlier { sums: &self.stack });
                loss += run(micro, &mut grads, earlier)?;
            }
            self.push(Sum { grads, loss, level: 0 }, in_pieces && lane + 1 == self.lanes)?;
        }
        let total = self.stack.last().map(|sum| sum.loss).unwrap_or(0.0);
        Ok((total, StepGradients { tree: self }))
    }

    /// Adds a lane, and what it completes; `is_added` if the gradients of the earlier ones are in it already.
    fn push(&mut self, mut right: Sum, is_added: bool) -> Result<()> {
        while let Some(left) = self.stack.pop_if(|left| left.level == right.level) {
            let Sum { mut grads, loss, level } = left;
            let (kept, free) = if is_added {
                (right.grads, grads)
            } else {
                grads.flat_mut().add_assign(right.grads.flat())?;
                (grads, right.grads)
            };
            self.free.push(free);
            right = Sum { grads: kept, loss: loss + right.loss, level: level + 1 };
        }
        self.stack.push(right);
        Ok(())
    }
}

/// The sums of the lanes before the last one, which completes all of them.
pub struct Earlier<'t> {
    sums: &'t [Sum],
}

impl Earlier<'_> {
    /// Makes a range of the last lane's gradient (in host memory) that of the whole tree: the same additions as those
    /// of whole buffers.
    pub fn add_to(&self, grads: &mut Gradients, range: Range<usize>) {
        let into = &mut grads.flat_mut().f32_mut()[range.clone()];
        self.buffers().for_each(|sum| add_assign(into, &sum.flat().f32()[range.clone()]));
    }

    /// The sums, in the order in which they are added to the last lane's.
    pub fn buffers(&self) -> impl Iterator<Item = &Gradients> {
        self.sums.iter().rev().map(|sum| &sum.grads)
    }
}

/// The finished gradients of a step, until the next one begins.
pub struct StepGradients<'t> {
    tree: &'t mut LaneTree,
}

impl StepGradients<'_> {
    /// The gradients.
    pub fn get(&self) -> &Gradients {
        &self.tree.stack[0].grads
    }

    /// The gradients, for other processes' to be added to.
    pub fn get_mut(&mut self) -> &mut Gradients {
        &mut self.tree.stack[0].grads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::tape::{Layout, ParamId};

    fn params() -> Params {
        let mut layout = Layout::default();
        layout.push("w", &[3]);
        Params::zeros(layout, Device::Cpu).unwrap()
    }

    /// The gradient of micro-batch `i`: numbers whose sum depends on the order.
    fn value(i: usize) -> f32 {
        [1e8, 1.0, -1e8, 3.0, 0.1, -7e7, 7e7, 0.25][i % 8] * (1 + i / 8) as f32
    }

    fn total(lanes: usize, count: usize) -> f32 {
        let params = params();
        let mut tree = LaneTree::new(lanes).unwrap();
        let mut last = 0.0;
        // Twice, so that reused buffers are tested too.
        for _ in 0..2 {
            let (loss, grads) = tree
                .step(&params, count, |i, grads| {
                    grads.of_mut(ParamId(0))[1] += value(i);
                    Ok(i as f64)
                })
                .unwrap();
            assert_eq!(loss, (count * (count - 1) / 2) as f64);
            last = grads.get().of(ParamId(0))[1];
        }
        last
    }

    #[test]
    fn lanes_meet_in_a_binary_tree() {
        let v = |i| value(i);
        assert_eq!(total(1, 4), ((v(0) + v(1)) + v(2)) + v(3));
        assert_eq!(total(4, 4), (v(0) + v(1)) + (v(2) + v(3)));
        assert_eq!(total(2, 8), (((v(0) + v(1)) + v(2)) + v(3)) + (((v(4) + v(5)) + v(6)) + v(7)));
        assert_eq!(
            total(8, 16),
            (((v(0) + v(1)) + (v(2) + v(3))) + ((v(4) + v(5)) + (v(6) + v(7))))
                + (((v(8) + v(9)) + (v(10) + v(11))) + ((v(12) + v(13)) + (v(14) + v(15))))
        );
    }

    #[test]
    fn a_gradient_that_leaves_in_pieces_has_the_same_bits() {
        let params = params();
        for (lanes, count) in [(1, 2), (2, 2), (4, 8), (8, 8), (8, 16)] {
            let mut tree = LaneTree::new(lanes).unwrap();
            for _ in 0..2 {
                let (loss, grads) = tree
                    .step_in_pieces(&params, count, |i, grads, earlier| {
                        assert_eq!(earlier.is_some(), i + 1 == count);
                        grads.of_mut(ParamId(0))[1] += value(i);
                        if let Some(earlier) = earlier {
                            earlier.add_to(grads, 1..16);
                            earlier.add_to(grads, 0..1);
                        }
                        Ok(i as f64)
                    })
                    .unwrap();
                assert_eq!(loss, (count * (count - 1) / 2) as f64);
                assert_eq!(grads.get().of(ParamId(0))[1].to_bits(), total(lanes, count).to_bits(), "{lanes} lanes");
            }
        }
    }

    #[test]
    fn defaults_divide() {
        assert_eq!([1, 2, 3, 4, 6, 8, 12, 16, 40].map(default_lanes), [1, 2, 1, 4, 2, 8, 4, 8, 8]);
        assert_eq!(
            [(32, 8), (32, 16), (32, 32), (32, 64), (40, 16), (48, 12)]
                .map(|(count, ranks)| lanes_of_many(count, ranks)),
            [None, Some(16), Some(32), None, None, None]
        );
        assert_eq!([1, 2, 4, 8].map(buffers), [1, 2, 3, 4]);
        assert!(LaneTree::new(3).is_err());
    }
}
