//! Causal self-attention: projection to queries, keys and values, rotary positions, attention, projection back.

use super::cache::Cache;
use super::{Linear, Pass, Site};
use crate::arch::config::ModelConfig;
use crate::error::Result;
use crate::ops;
use crate::ops::attention::{AttentionDropout, Heads};
use crate::ops::rope::RopeTable;
use crate::tape::{Layout, Tape, Var};
use crate::tensor::Tensor;

/// An attention layer's parameters.
#[derive(Clone, Debug)]
pub struct Attention {
    /// To queries, keys and values.
    pub qkv: Linear,
    /// Back to the residual stream.
    pub proj: Linear,
    heads: Heads,
}

/// Where the keys and values come from that the queries of a pass attend to.
#[derive(Debug)]
pub enum Keys<'k> {
    /// From the pass itself: whole sequences from position 0, or the documents of which they are made.
    Sequence,
    /// From a cache and the pass itself: its tokens stand at the positions `past..past + Tq` of the sequences
    /// `first..first + B` of the cache, and their keys and values are added to it.
    Cache {
        /// The cache.
        cache: &'k mut Cache,
        /// The first sequence.
        first: usize,
        /// Tokens of each that are in the cache.
        past: usize,
    },
    /// The same for one new token of each sequence of the cache, on a GPU, where each may have another length.
    Each {
        /// The cache.
        cache: &'k mut Cache,
        /// Tokens of each sequence that are in the cache, u32 `[S]`, on the device.
        pasts: &'k Tensor,
        /// No sequence has more tokens than this, the new one included.
        longest: usize,
    },
}

impl Attention {
    /// The layer whose parameters are those of `NAME.qkv` (rows: queries, keys, values) and `NAME.proj`.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn new(layout: &Layout, name: &str, config: &ModelConfig) -> Attention {
        let linear = |part: &str| Linear::new(layout, &format!("{name}.{part}"));
        let heads = Heads { n_head: config.n_head, n_kv_head: config.n_kv_head, head_dim: config.head_dim };
        Attention { qkv: linear("qkv"), proj: linear("proj"), heads }
    }

    /// `x` [B, T, C] to [B, T, C] in layer `layer` of a pass.
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn forward(
        &self,
        tape: &mut Tape<'_>,
        x: &Var,
        rope: Option<&RopeTable>,
        layer: usize,
        pass: &Pass,
        keys: &mut Keys<'_>,
    ) -> Result<Var> {
        let mut qkv = self.qkv.forward(tape, x, layer, pass)?;
        if let Some(table) = rope {
            qkv = match keys {
                Keys::Sequence => ops::rope::rope(tape, qkv, self.heads, table, 0, pass.documents.as_ref())?,
                Keys::Cache { past, .. } => ops::rope::rope(tape, qkv, self.heads, table, *past, None)?,
                Keys::Each { pasts, .. } => {
                    Var::constant(ops::rope::rotate_each(qkv.into_value(), self.heads, table, pasts)?)
                }
            };
        }
        let y = self.attend(tape, &qkv, layer, pass, keys)?;
        drop(qkv);
        self.proj.forward(tape, &y, layer, pass)
    }

    /// Attention itself, between the projections: `qkv` [B, T, (H + 2 K) D] to [B, T, H D].
    fn attend(&self, tape: &mut Tape<'_>, qkv: &Var, layer: usize, pass: &Pass, keys: &mut Keys<'_>) -> Result<Var> {
        match keys {
            Keys::Sequence => {
                let dropout = pass.dropout.as_ref().map(|dropout| AttentionDropout {
                    mask: dropout.mask(layer, Site::Attention),
                    sequences: &dropout.sequences,
                });
                ops::attention::attention(tape, qkv, self.heads, dropout, pass.documents.as_ref())
            }
            Keys::Cache { cache, first, past } => {
                let qkv = qkv.value();
                let mut shape = qkv.shape().to_vec();
                *shape.last_mut().expect("three axes") = self.heads.n_head * self.heads.head_dim;
                let mut y = Tensor::empty(qkv.device(), qkv.dtype(), &shape)?;
                let (keys, values) = &mut cache.layers[layer];
                ops::attention::forward_cached(&mut y, qkv, keys, values, self.heads, (*first, *past))?;
                Ok(Var::constant(y))
            }
            Keys::Each { cache, pasts, longest } => {
                let (keys, values) = &mut cache.layers[layer];
                let y = ops::attention::forward_each(qkv.value(), keys, values, self.heads, pasts, *longest)?;
                Ok(Var::constant(y))
            }
        }
    }
}
