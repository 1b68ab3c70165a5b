//! Update rules: what becomes of the weights, given their gradients and the state that the rule keeps for them.
//!
//! A rule keeps named slots: buffers of f32 with one element for each gradient. Engines, checkpoints, sharding and the
//! memory model know of a rule its slots' names and where its part of the parameters may be cut, and nothing else. What
//! guards a step (norm, clipping, refusal, the loss scale) is not the rule's: see [`super::guard`].
//!
//! A new rule is a file here, a variant of [`OptimizerKind`], and its line in [`of`].

pub mod adamw;
#[cfg(test)]
pub(crate) mod momentum;

use std::fmt::Debug;
use std::ops::Range;

use crate::device::Gpu;
use crate::error::Result;
use crate::optim::config::{OptimizerConfig, OptimizerKind};
use crate::tape::{Gradients, Layout, Params};
use crate::tensor::Tensor;

/// The rule that a config asks for, with its numbers.
pub fn of(config: &OptimizerConfig) -> Box<dyn Rule> {
    match config.kind {
        OptimizerKind::Adamw => Box::new(adamw::AdamW::of(config)),
        #[cfg(test)]
        OptimizerKind::Momentum => Box::new(momentum::Momentum::of(config)),
    }
}

/// Bytes of optimizer state for each trained parameter: what the memory model counts.
pub fn state_bytes(config: &OptimizerConfig) -> usize {
    of(config).slots().len() * size_of::<f32>()
}

/// One update, as every rule is told of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The learning rate of this step.
    pub lr: f64,
    /// What gradients are multiplied with first: the clip factor.
    pub grad_scale: f32,
    /// Updates applied so far, this one included (so at least 1).
    pub updates: u64,
}

/// Where the parameters may be cut, so that several processes each update a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Anywhere: the rule looks at one element at a time.
    Anywhere,
    /// Between parameters: the rule needs whole matrices.
    BetweenParameters,
}

/// An update rule.
pub trait Rule: Debug + Send + Sync {
    /// Names of the state slots, as checkpoints call them.
    fn slots(&self) -> &'static [&'static str];

    /// Where the parameters may be cut among processes.
    fn cut(&self) -> Cut;

    /// Updates the elements `part` of what is trained (and their copy in the compute dtype), in host memory. `grads` has all
    /// gradients; `slots` hold the state of the part, f32 `[part]`, in the order of [`Rule::slots`].
    fn update(&self, params: &mut Params, grads: &Gradients, part: Range<usize>, slots: &mut [Tensor], with: &Update);

    /// The same rule on a GPU, for the elements `part` of what is trained of `layout`.
    ///
    /// # Errors
    /// If memory cannot be had, or the rule has no kernels.
    fn on_gpu(&self, gpu: &'static Gpu, layout: &Layout, part: Range<usize>) -> Result<Box<dyn DeviceRule>>;
}

/// The half of a rule that runs on a GPU, for one part of the parameters.
pub trait DeviceRule {
    /// Starts the update. `record` is the device address of the step's [`crate::ops::gradnorm::cuda::StepRecord`],
    /// which tells the learning rate, what gradients are multiplied with, the number of the update, and whether it is
    /// applied at all.
    ///
    /// # Errors
    /// If the device fails.
    fn update(&mut self, params: &mut Params, grads: &Gradients, slots: &mut [Tensor], record: u64) -> Result<()>;
}
