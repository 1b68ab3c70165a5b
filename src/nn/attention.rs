//! Causal self-attention: projection to queries, keys and values, rotary positions, attention, projection back.

use super::{Builder, Linear, Pass, Site};
use crate::arch::config::ModelConfig;
use crate::error::Result;
use crate::ops;
use crate::ops::attention::{AttentionDropout, Heads};
use crate::ops::rope::RopeTable;
use crate::tape::{Tape, Var};
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

impl Attention {
    /// Adds `NAME.qkv` (rows: queries, keys, values) and `NAME.proj`.
    pub fn new(builder: &mut Builder, name: &str, config: &ModelConfig, std: f64, std_residual: f64) -> Attention {
        let (c, d) = (config.n_embd, config.head_dim);
        let parts = [
            (format!("{name}.q.weight"), config.n_head * d),
            (format!("{name}.k.weight"), config.n_kv_head * d),
            (format!("{name}.v.weight"), config.n_kv_head * d),
        ];
        let rows = config.qkv_dim();
        let qkv = Linear::new(
            builder.packed(&format!("{name}.qkv.weight"), &[rows, c], std, &parts),
            builder.bias(&format!("{name}.qkv.bias"), rows, config.qkv_bias),
        );
        let proj = Linear::new(
            builder.normal(&format!("{name}.proj.weight"), &[c, config.attn_dim()], std_residual),
            builder.bias(&format!("{name}.proj.bias"), c, config.bias),
        );
        let heads = Heads { n_head: config.n_head, n_kv_head: config.n_kv_head, head_dim: d };
        Attention { qkv, proj, heads }
    }

    /// `x` [B, T, C] to [B, T, C], whole sequences from position 0, or the documents of which they are made.
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
    ) -> Result<Var> {
        let documents = pass.documents.as_ref();
        let mut qkv = self.qkv.forward(tape, x, layer, pass)?;
        if let Some(table) = rope {
            qkv = ops::rope::rope(tape, qkv, self.heads, table, 0, documents)?;
        }
        let dropout = pass.dropout.as_ref().map(|dropout| AttentionDropout {
            mask: dropout.mask(layer, Site::Attention),
            sequences: &dropout.sequences,
        });
        let y = ops::attention::attention(tape, &qkv, self.heads, dropout, documents)?;
        drop(qkv);
        self.proj.forward(tape, &y, layer, pass)
    }

    /// `x` [B, Tq, C] of the tokens at positions `past..past + Tq` of the sequences `first..first + B`, attending to the
    /// cache's tokens and to themselves; their keys and values are added to the cache's tensors.
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn forward_cached(
        &self,
        tape: &mut Tape<'_>,
        x: &Var,
        rope: Option<&RopeTable>,
        (keys, values): &mut (Tensor, Tensor),
        (first, past): (usize, usize),
    ) -> Result<Var> {
        let pass = Pass::default();
        let mut qkv = self.qkv.forward(tape, x, 0, &pass)?;
        if let Some(table) = rope {
            qkv = ops::rope::rope(tape, qkv, self.heads, table, past, None)?;
        }
        let mut shape = qkv.value().shape().to_vec();
        *shape.last_mut().expect("three axes") = self.heads.n_head * self.heads.head_dim;
        let mut y = Tensor::empty(x.value().device(), x.value().dtype(), &shape)?;
        ops::attention::forward_cached(&mut y, qkv.value(), keys, values, self.heads, (first, past))?;
        self.proj.forward(tape, &Var::constant(y), 0, &pass)
    }

    /// `x` [S, 1, C] of one new token of each sequence of the cache, on a GPU; see [`ops::attention::forward_each`].
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn forward_each(
        &self,
        tape: &mut Tape<'_>,
        x: &Var,
        rope: Option<&RopeTable>,
        (keys, values): &mut (Tensor, Tensor),
        pasts: &Tensor,
        longest: usize,
    ) -> Result<Var> {
        let pass = Pass::default();
        let mut qkv = self.qkv.forward(tape, x, 0, &pass)?.into_value();
        if let Some(table) = rope {
            qkv = ops::rope::rotate_each(qkv, self.heads, table, pasts)?;
        }
        let y = ops::attention::forward_each(&qkv, keys, values, self.heads, pasts, longest)?;
        self.proj.forward(tape, &Var::constant(y), 0, &pass)
    }
}
