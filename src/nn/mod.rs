//! Layers built from operators: each knows its parameters' ids and how to run on a tape.
//!
//! A layer is made by a `Builder`, which hands out parameters in arena order and remembers how each starts. Initial values
//! depend on the seed and the parameter's name alone ([`init`]), never on what else the model has.

pub mod attention;
pub mod cache;
pub mod init;
pub mod mlp;
pub mod norm;

pub use attention::Attention;
pub use cache::Cache;
pub use init::{Builder, Init};
pub use mlp::MlpLayer;
pub use norm::NormLayer;

use std::sync::Arc;

use crate::error::Result;
use crate::ops;
use crate::random::Mask;
use crate::tape::{ParamId, Tape, Var};

/// Where dropout stands within a layer; part of the key of its mask.
#[derive(Clone, Copy, Debug)]
pub enum Site {
    /// After the sum of token and position embeddings.
    Embedding = 0,
    /// On attention probabilities.
    Attention = 1,
    /// On the attention branch, before it is added to the residual stream.
    AttentionOut = 2,
    /// On the feed-forward branch, before it is added to the residual stream.
    MlpOut = 3,
}

/// Everything that decides the dropout masks of one forward pass.
#[derive(Clone, Debug)]
pub struct Dropout {
    /// `seed_dropout`.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
    /// Probability of dropping, above 0.
    pub probability: f64,
    /// The index, within the global batch of the step, of each sequence of this micro-batch.
    pub sequences: Arc<[u32]>,
}

impl Dropout {
    /// The mask of a site in a layer.
    pub fn mask(&self, layer: usize, site: Site) -> Mask {
        Mask::new(self.seed, self.step, layer as u32, site as u32, self.probability)
    }

    /// Applies dropout at a site.
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn apply(&self, tape: &mut Tape<'_>, x: Var, layer: usize, site: Site) -> Result<Var> {
        ops::dropout::dropout(tape, x, self.mask(layer, site), &self.sequences)
    }
}

/// A linear layer's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// [out, in].
    pub weight: ParamId,
    /// [out].
    pub bias: Option<ParamId>,
}

impl Linear {
    /// `x` [.., in] to [.., out].
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn forward(&self, tape: &mut Tape<'_>, x: &Var) -> Result<Var> {
        ops::linear::linear(tape, x, self.weight, self.bias)
    }
}
