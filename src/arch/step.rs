//! The operators of a training step: what a forward pass and its way back are made of, with the shapes and how often.
//!
//! Benchmarks, plans and the count of FLOPs read this list; [`crate::model`] is what it describes.

use super::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use crate::ops::attention::cost::Pairs;
use crate::ops::cost::{Cost, Counting, Work};
use crate::ops::heads::Heads;
use crate::ops::{attention, classifier, dropout, embedding, gelu, layernorm, linear, low_rank, relu2, residual};
use crate::ops::{rmsnorm, rope, swiglu};

/// Which linear layer of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// To queries, keys and values.
    Qkv,
    /// Back from attention.
    Proj,
    /// To the inner width.
    Up,
    /// Back from the inner width.
    Down,
}

/// An operator with the extents that do not depend on the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Token embedding, with positions where they are learned.
    Embedding {
        /// Rows of the table.
        vocabulary: usize,
        /// Width.
        width: usize,
        /// Whether there is a table of positions.
        positions: bool,
    },
    /// A norm.
    Norm {
        /// Which.
        kind: Norm,
        /// Width.
        width: usize,
    },
    /// A residual sum and its norm.
    AddNorm {
        /// Which.
        kind: Norm,
        /// Width.
        width: usize,
    },
    /// A residual sum.
    Residual {
        /// Width.
        width: usize,
    },
    /// A linear layer.
    Linear {
        /// Which.
        layer: Layer,
        /// Outputs.
        outs: usize,
        /// Inputs.
        ins: usize,
        /// Whether it has a bias.
        bias: bool,
    },
    /// A correction of low rank to a linear layer.
    LowRank {
        /// Outputs.
        outs: usize,
        /// Inputs.
        ins: usize,
        /// Rank.
        rank: usize,
    },
    /// The rotary embedding.
    Rope {
        /// The heads.
        heads: Heads,
    },
    /// Causal attention.
    Attention {
        /// The heads.
        heads: Heads,
    },
    /// The activation function of the feed-forward layer.
    Activation {
        /// Which.
        kind: Mlp,
        /// Its outputs.
        width: usize,
    },
    /// Dropout.
    Dropout {
        /// Width.
        width: usize,
    },
    /// Output layer, softmax and cross-entropy.
    Classifier {
        /// Tokens.
        vocabulary: usize,
        /// Width.
        width: usize,
    },
}

impl Operator {
    /// What it is called in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Operator::Embedding { .. } => "embedding",
            Operator::Norm { kind: Norm::Layernorm, .. } => "layernorm",
            Operator::Norm { kind: Norm::Rmsnorm, .. } => "rmsnorm",
            Operator::AddNorm { kind: Norm::Layernorm, .. } => "add_layernorm",
            Operator::AddNorm { kind: Norm::Rmsnorm, .. } => "add_rmsnorm",
            Operator::Residual { .. } => "residual",
            Operator::Linear { layer: Layer::Qkv, .. } => "linear qkv",
            Operator::Linear { layer: Layer::Proj, .. } => "linear proj",
            Operator::Linear { layer: Layer::Up, .. } => "linear up",
            Operator::Linear { layer: Layer::Down, .. } => "linear down",
            Operator::LowRank { .. } => "low_rank",
            Operator::Rope { .. } => "rope",
            Operator::Attention { .. } => "attention",
            Operator::Activation { kind: Mlp::Gelu | Mlp::GeluErf, .. } => "gelu",
            Operator::Activation { kind: Mlp::Swiglu, .. } => "swiglu",
            Operator::Activation { kind: Mlp::Relu2, .. } => "relu2",
            Operator::Dropout { .. } => "dropout",
            Operator::Classifier { .. } => "classifier",
        }
    }

    /// What it moves and computes at least for `b` sequences of `t` tokens. The classifier's way back is part of its forward
    /// pass, see [`Operator::passes`]: its products alone count here.
    pub fn cost(&self, b: usize, t: usize) -> Cost {
        let n = b * t;
        match *self {
            Operator::Embedding { vocabulary, width, positions } => {
                embedding::cost::cost(b, t, width, vocabulary, positions, Counting::Least)
            }
            Operator::Norm { kind: Norm::Layernorm, width } => layernorm::cost::cost(n, width),
            Operator::Norm { kind: Norm::Rmsnorm, width } => rmsnorm::cost::cost(n, width),
            Operator::AddNorm { kind: Norm::Layernorm, width } => layernorm::cost::cost_of_sum(n, width),
            Operator::AddNorm { kind: Norm::Rmsnorm, width } => rmsnorm::cost::cost_of_sum(n, width),
            Operator::Residual { width } => residual::cost::cost(n * width),
            Operator::Linear { outs, ins, .. } => linear::cost::cost(n, ins, outs, Counting::Least),
            Operator::LowRank { outs, ins, rank } => low_rank::cost::cost(n, ins, outs, rank, Counting::Least),
            Operator::Rope { heads } => rope::cost::cost(n, heads),
            Operator::Attention { heads } => attention::cost::cost(b, t, heads, Pairs::Causal),
            Operator::Activation { kind, width } => match kind {
                Mlp::Gelu | Mlp::GeluErf => gelu::cost::cost(n * width),
                Mlp::Swiglu => swiglu::cost::cost(n * width),
                Mlp::Relu2 => relu2::cost::cost(n * width),
            },
            Operator::Dropout { width } => dropout::cost::cost(n * width),
            Operator::Classifier { vocabulary, width } => classifier::cost::cost(n, width, vocabulary),
        }
    }

    /// The passes that it makes, by name, with what each moves and computes at least.
    pub fn passes(&self, b: usize, t: usize) -> Vec<(&'static str, Work)> {
        let Cost { forward, backward } = self.cost(b, t);
        match *self {
            Operator::Classifier { vocabulary, width } => {
                vec![("both", classifier::cost::both(b * t, width, vocabulary))]
            }
            // The gradient is handed on as it is.
            Operator::Residual { .. } => vec![("forward", forward)],
            _ => vec![("forward", forward), ("backward", backward)],
        }
    }

    /// Parameters that multiply an activation: those of its matrix.
    pub fn multiplied(&self) -> usize {
        match *self {
            Operator::Linear { outs, ins, .. } => outs * ins,
            Operator::LowRank { outs, ins, rank } => rank * (outs + ins),
            Operator::Classifier { vocabulary, width } => vocabulary * width,
            _ => 0,
        }
    }
}

/// Every operator of a training step with how often a forward pass has it: around the blocks, then in them, in order.
pub fn operators(config: &ModelConfig) -> Vec<(Operator, usize)> {
    let (c, m, l, kind) = (config.n_embd, config.mlp_dim, config.n_layer, config.norm);
    let heads = Heads { n_head: config.n_head, n_kv_head: config.n_kv_head, head_dim: config.head_dim };
    let positions = config.position == Position::Learned;
    let alone = usize::from(config.norm_position == NormPosition::Pre);
    let up = if config.mlp == Mlp::Swiglu { 2 * m } else { m };
    let linear = |layer, outs, ins, bias| (Operator::Linear { layer, outs, ins, bias }, l);
    let mut list = vec![
        (Operator::Embedding { vocabulary: config.vocab_size, width: c, positions }, 1),
        // In a pre-norm model the first norm has no sum before it, and one stands behind the blocks.
        (Operator::Norm { kind, width: c }, alone),
        (Operator::AddNorm { kind, width: c }, 2 * l),
        (Operator::Classifier { vocabulary: config.vocab_size, width: c }, 1),
        linear(Layer::Qkv, heads.packed(), c, config.qkv_bias),
        (Operator::Rope { heads }, if config.position == Position::Rope { l } else { 0 }),
        (Operator::Attention { heads }, l),
        linear(Layer::Proj, c, heads.width(), config.bias),
        linear(Layer::Up, up, c, config.bias),
        (Operator::Activation { kind: config.mlp, width: m }, l),
        linear(Layer::Down, c, m, config.bias),
        (Operator::Dropout { width: c }, if config.dropout > 0.0 { 1 + 2 * l } else { 0 }),
    ];
    list.retain(|(_, count)| *count > 0);
    list
}
