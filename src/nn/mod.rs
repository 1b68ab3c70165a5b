//! Layers built from operators: each knows its parameters' ids and how to run on a tape.
//!
//! A layer looks its parameters up, by name, in the arena that [`crate::arch::layout`] laid out. Initial values depend on
//! the seed and the parameter's name alone ([`init`]), never on what else the model has.

pub mod attention;
pub mod cache;
pub mod init;
pub mod mlp;
pub mod norm;

pub use attention::{Attention, Keys};
pub use cache::Cache;
pub use mlp::MlpLayer;
pub use norm::NormLayer;

use std::sync::Arc;

use crate::error::Result;
use crate::ops;
use crate::ops::documents::Documents;
use crate::random::Mask;
use crate::tape::{Layout, ParamId, Tape, Var};
use crate::tensor::Tensor;

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

    /// The mask of what an adapter of a layer reads; `site` counts the adapters of a block.
    pub fn mask_at(&self, layer: usize, site: u32) -> Mask {
        Mask::new(self.seed, self.step, layer as u32, Site::MlpOut as u32 + 1 + site, self.probability)
    }

    /// Applies dropout at a site.
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn apply(&self, tape: &mut Tape<'_>, x: Var, layer: usize, site: Site) -> Result<Var> {
        ops::dropout::dropout(tape, x, self.mask(layer, site), &self.sequences)
    }
}

/// How a training pass differs from an evaluation.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// Dropout, where the model has any and training wants it.
    pub dropout: Option<Dropout>,
    /// Whether blocks store only their input and run again in backward.
    pub recompute: bool,
    /// What the loss is multiplied with before it goes back, f32 `[1]` on the device (fp16).
    pub loss_scale: Option<Tensor>,
    /// Dropout of what the adapters read, where they have any.
    pub adapter_dropout: Option<Dropout>,
    /// The documents of the sequences, where one holds several: none sees another, and positions start again in each.
    pub documents: Option<Documents>,
}

/// A linear layer's parameters, and the adapters next to it.
#[derive(Clone, Debug)]
pub struct Linear {
    /// [out, in].
    pub weight: ParamId,
    /// `[out]`.
    pub bias: Option<ParamId>,
    /// Corrections of low rank that are trained while the weight stays as it is.
    pub adapters: Vec<Adapter>,
}

/// A correction of low rank to some rows of a linear layer: `W x + scale * B A x` (Hu et al., "LoRA", 2021).
#[derive(Clone, Copy, Debug)]
pub struct Adapter {
    /// A, [rank, in].
    pub down: ParamId,
    /// B, [rows, rank].
    pub up: ParamId,
    /// The first of the layer's outputs that it acts on.
    pub first: usize,
    /// The factor.
    pub scale: f32,
    /// Which of the adapters of a block it is: part of the key of its dropout.
    pub site: u32,
}

impl Linear {
    /// The layer whose parameters are `NAME.weight` and, where there is one, `NAME.bias`, without adapters.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn new(layout: &Layout, name: &str) -> Linear {
        let (weight, bias) = layer(layout, name);
        Linear { weight, bias, adapters: Vec::new() }
    }

    /// `x` [.., in] to [.., out] in layer `layer` of a pass.
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn forward(&self, tape: &mut Tape<'_>, x: &Var, layer: usize, pass: &Pass) -> Result<Var> {
        let mut y = ops::linear::linear(tape, x, self.weight, self.bias)?;
        for adapter in &self.adapters {
            let read = match &pass.adapter_dropout {
                Some(dropout) => {
                    let mask = dropout.mask_at(layer, adapter.site);
                    ops::dropout::dropout(tape, x.clone(), mask, &dropout.sequences)?
                }
                None => x.clone(),
            };
            y = ops::low_rank::low_rank(tape, y, &read, (adapter.down, adapter.up), adapter.first, adapter.scale)?;
        }
        Ok(y)
    }
}

/// The parameters `NAME.weight` and, where there is one, `NAME.bias`.
fn layer(layout: &Layout, name: &str) -> (ParamId, Option<ParamId>) {
    (named(layout, &format!("{name}.weight")), layout.find(&format!("{name}.bias")))
}

/// The parameter of this name.
///
/// # Panics
/// If there is none: a layer asks for what the list of parameters does not have.
pub(crate) fn named(layout: &Layout, name: &str) -> ParamId {
    layout.find(name).unwrap_or_else(|| panic!("the model's list of parameters has no {name}"))
}
