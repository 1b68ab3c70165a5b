//! The shape of a model, resolved: every number known, every option chosen.
//!
//! This is what the engine, the reference engine and the model folders agree on. How it comes from a config file, where
//! most keys are optional, is the business of the `config` module.

use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which normalisation stands before (or after) each sub-layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// LayerNorm (Ba et al. 2016): subtract the mean, divide by the standard deviation, scale, and shift where `bias`.
    Layernorm,
    /// RMSNorm (Zhang and Sennrich 2019): divide by the root mean square, scale. It never has a bias.
    Rmsnorm,
}

/// Where the normalisation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NormPosition {
    /// `x + f(norm(x))`, with one more norm before the output layer (GPT-2, Llama).
    Pre,
    /// `norm(x + f(x))`, with no norm before the output layer (the first GPT and the original transformer).
    Post,
}

/// How the model knows where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// A learned vector for each position, added to the token's embedding (GPT-2).
    Learned,
    /// Rotary embedding of queries and keys (Su et al. 2021), in the rotate-half layout (Llama).
    Rope,
    /// Nothing but the causal mask.
    None,
}

/// The kind of the feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mlp {
    /// `down(gelu(up(x)))` with the tanh approximation of GELU (GPT-2; `gelu_new` in transformers).
    Gelu,
    /// `down(gelu(up(x)))` with the exact GELU, by erf.
    GeluErf,
    /// `down(silu(gate(x)) * up(x))` (Shazeer 2020; Llama).
    Swiglu,
    /// `down(relu(up(x))^2)` (So et al. 2021, Primer).
    Relu2,
}

/// The resolved shape of a GPT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Number of blocks (L).
    pub n_layer: usize,
    /// Number of query heads (H).
    pub n_head: usize,
    /// Number of key and value heads (Hkv); divides `n_head`. Fewer than `n_head` is grouped-query attention.
    pub n_kv_head: usize,
    /// Size of one head (D).
    pub head_dim: usize,
    /// Width of the residual stream (C).
    pub n_embd: usize,
    /// Width inside the feed-forward layer (M).
    pub mlp_dim: usize,
    /// The longest sequence (T).
    pub context_length: usize,
    /// Number of token ids (V).
    pub vocab_size: usize,
    /// Kind of normalisation.
    pub norm: Norm,
    /// Place of the normalisation.
    pub norm_position: NormPosition,
    /// The epsilon inside the norms.
    pub norm_eps: f64,
    /// Positional information.
    pub position: Position,
    /// The base of the rotary frequencies; meaningful with `position = "rope"`.
    pub rope_theta: f64,
    /// Kind of the feed-forward layer.
    pub mlp: Mlp,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the other linear layers, and LayerNorm, have a bias.
    pub bias: bool,
    /// Whether the output layer shares the token embedding's weights.
    pub tie_embeddings: bool,
    /// Dropout probability on embeddings, attention weights and both residual branches, in training only.
    pub dropout: f64,
}

impl ModelConfig {
    /// GPT-2's architecture (Radford et al. 2019) in a shape of one's own; (12, 12, 768, 1024, 50257) is the 124M model.
    /// Other architectures differ from it by struct update.
    pub fn gpt2(n_layer: usize, n_head: usize, n_embd: usize, context_length: usize, vocab_size: usize) -> ModelConfig {
        ModelConfig {
            n_layer,
            n_head,
            n_kv_head: n_head,
            head_dim: n_embd / n_head,
            n_embd,
            mlp_dim: 4 * n_embd,
            context_length,
            vocab_size,
            norm: Norm::Layernorm,
            norm_position: NormPosition::Pre,
            norm_eps: 1e-5,
            position: Position::Learned,
            rope_theta: 1e4,
            mlp: Mlp::Gelu,
            qkv_bias: true,
            bias: true,
            tie_embeddings: true,
            dropout: 0.0,
        }
    }

    /// Rows of the packed query-key-value projection: `(H + 2 Hkv) * D`.
    pub fn qkv_dim(&self) -> usize {
        (self.n_head + 2 * self.n_kv_head) * self.head_dim
    }

    /// Width of the attention output before its projection: `H * D`.
    pub fn attn_dim(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Checks what the numbers must fulfil.
    ///
    /// # Errors
    /// A `Usage` error that names the key and the way out.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_kv_head", self.n_kv_head),
            ("head_dim", self.head_dim),
            ("n_embd", self.n_embd),
            ("mlp_dim", self.mlp_dim),
            ("context_length", self.context_length),
            ("vocab_size", self.vocab_size),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(Error::usage(format!("model.{key} is 0; it must be at least 1")));
            }
            if value > 1 << 30 {
                return Err(Error::usage(format!("model.{key} = {value} is beyond what a model can have")));
            }
        }
        if !self.n_head.is_multiple_of(self.n_kv_head) {
            return Err(Error::usage(format!(
                "model.n_kv_head = {} does not divide model.n_head = {}; each key-value head serves an equal group of query heads",
                self.n_kv_head, self.n_head
            )));
        }
        if self.position == Position::Rope && !self.head_dim.is_multiple_of(2) {
            return Err(Error::usage(format!(
                "model.position = \"rope\" needs an even head_dim, and it is {}; change n_embd, n_head or head_dim",
                self.head_dim
            )));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::usage(format!("model.dropout = {} must be at least 0 and below 1", self.dropout)));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(Error::usage(format!("model.norm_eps = {} must be between 0 and 1", self.norm_eps)));
        }
        if !(self.rope_theta > 1.0 && self.rope_theta.is_finite()) {
            return Err(Error::usage(format!("model.rope_theta = {} must be above 1", self.rope_theta)));
        }
        Ok(())
    }
}
