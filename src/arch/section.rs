//! The `[model]` section: the shape as a config file gives it, where most keys may be left out.
//!
//! Every key is optional here, because whether it was *written* matters: with `init_from` the shape is the folder's, and
//! only a key that somebody wrote can contradict it. [`ModelSection::resolve`] turns the section into a [`ModelConfig`] once
//! the vocabulary (and the folder's shape) is known; [`ModelSection::set`] writes a resolved shape back, for the run
//! folder's config.toml.

use std::fmt::Debug;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use crate::error::Result;
use crate::setting::{Problem, count};

/// The shape of the model. The defaults are GPT-2's (124M parameters with its tokenizer). With `init_from` all keys but
/// `dropout` come from that folder, and one that is written must agree with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// Number of blocks.
    #[schemars(extend("x-default" = "12"))]
    pub n_layer: Option<usize>,
    /// Number of query heads.
    #[schemars(extend("x-default" = "12"))]
    pub n_head: Option<usize>,
    /// Number of key and value heads; divides `n_head`. Fewer is grouped-query attention (Ainslie et al. 2023).
    #[schemars(extend("x-default" = "`n_head`"))]
    pub n_kv_head: Option<usize>,
    /// Width of the model: the length of a token's vector between the blocks.
    #[schemars(extend("x-default" = "768"))]
    pub n_embd: Option<usize>,
    /// Length of the sequences the model is trained on, and the longest it can read.
    #[schemars(extend("x-default" = "1024"))]
    pub context_length: Option<usize>,
    /// Number of token ids; at least the tokenizer's.
    #[schemars(extend("x-default" = "the tokenizer's"))]
    pub vocab_size: Option<usize>,
    /// Size of one attention head.
    #[schemars(extend("x-default" = "`n_embd / n_head`"))]
    pub head_dim: Option<usize>,
    /// Width inside the feed-forward layer.
    #[schemars(extend("x-default" = "`4 * n_embd`; with `mlp = \"swiglu\"` `8/3 * n_embd`, rounded up to a multiple of 64"))]
    pub mlp_dim: Option<usize>,
    /// The normalisation before (or after) each sub-layer.
    #[schemars(extend("x-default" = "\"layernorm\""))]
    pub norm: Option<Norm>,
    /// Where the normalisation stands.
    #[schemars(extend("x-default" = "\"pre\""))]
    pub norm_position: Option<NormPosition>,
    /// Added to the variance (or mean square) inside the normalisation.
    #[schemars(extend("x-default" = "1e-5"))]
    pub norm_eps: Option<f64>,
    /// How the model knows where a token stands.
    #[schemars(extend("x-default" = "\"learned\""))]
    pub position: Option<Position>,
    /// For `position = "rope"`: the base of the rotary frequencies.
    #[schemars(extend("x-default" = "10000.0"))]
    pub rope_theta: Option<f64>,
    /// The feed-forward layer.
    #[schemars(extend("x-default" = "\"gelu\""))]
    pub mlp: Option<Mlp>,
    /// Whether the query, key and value projections have a bias.
    #[schemars(extend("x-default" = "`bias`"))]
    pub qkv_bias: Option<bool>,
    /// Whether the other linear layers, and LayerNorm, have a bias.
    #[schemars(extend("x-default" = "true"))]
    pub bias: Option<bool>,
    /// Whether the output layer shares the token embedding's weights.
    #[schemars(extend("x-default" = "true"))]
    pub tie_embeddings: Option<bool>,
    /// Dropout probability on embeddings, attention weights and both residual branches, in training only. It is not part of
    /// the shape: with `init_from` it may differ.
    #[schemars(extend("x-default" = "0.0; with `init_from` the folder's"))]
    pub dropout: Option<f64>,
    /// A model folder to start from in place of random weights.
    #[schemars(extend("x-default" = "not set: random weights"))]
    pub init_from: Option<String>,
}

impl ModelSection {
    /// The resolved shape, for a tokenizer of `tokenizer_vocab` tokens; `init` is the shape found in `init_from`.
    ///
    /// # Errors
    /// `Usage`: a number that cannot be, a key that contradicts the folder, or a vocabulary smaller than the tokenizer's.
    pub fn resolve(&self, tokenizer_vocab: usize, init: Option<&ModelConfig>) -> Result<ModelConfig> {
        self.validate()?;
        let resolved = match init {
            Some(init) => self.agree(init)?,
            None => self.fill(tokenizer_vocab)?,
        };
        if resolved.vocab_size < tokenizer_vocab {
            let what = if init.is_some() { "the vocabulary of model.init_from" } else { "model.vocab_size" };
            let message = format!(
                "{what} = {} is smaller than the tokenizer's vocabulary of {tokenizer_vocab}; its last tokens would have \
                 no embedding",
                resolved.vocab_size
            );
            return Err(Problem::new("model.vocab_size", message).into());
        }
        resolved.validate()?;
        Ok(resolved)
    }

    /// Writes a resolved shape into the section, so that every key is explicit. `init_from` stays.
    pub fn set(&mut self, shape: &ModelConfig) {
        let init_from = self.init_from.take();
        *self = ModelSection {
            n_layer: Some(shape.n_layer),
            n_head: Some(shape.n_head),
            n_kv_head: Some(shape.n_kv_head),
            n_embd: Some(shape.n_embd),
            context_length: Some(shape.context_length),
            vocab_size: Some(shape.vocab_size),
            head_dim: Some(shape.head_dim),
            mlp_dim: Some(shape.mlp_dim),
            norm: Some(shape.norm),
            norm_position: Some(shape.norm_position),
            norm_eps: Some(shape.norm_eps),
            position: Some(shape.position),
            rope_theta: Some(shape.rope_theta),
            mlp: Some(shape.mlp),
            qkv_bias: Some(shape.qkv_bias),
            bias: Some(shape.bias),
            tie_embeddings: Some(shape.tie_embeddings),
            dropout: Some(shape.dropout),
            init_from,
        };
    }

    /// Checks that the sizes that are written are in range, before any arithmetic with them.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        let sizes = [
            ("model.n_layer", self.n_layer),
            ("model.n_head", self.n_head),
            ("model.n_kv_head", self.n_kv_head),
            ("model.n_embd", self.n_embd),
            ("model.context_length", self.context_length),
            ("model.vocab_size", self.vocab_size),
            ("model.head_dim", self.head_dim),
            ("model.mlp_dim", self.mlp_dim),
        ];
        for (key, size) in sizes {
            size.map_or(Ok(()), |size| count(key, size as u64))?;
        }
        if self.init_from.as_deref() == Some("") {
            return Err(Problem::expected("model.init_from", "\"\"", "a model folder"));
        }
        Ok(())
    }

    /// The written keys, and the defaults for the others.
    fn fill(&self, tokenizer_vocab: usize) -> Result<ModelConfig, Problem> {
        let n_head = self.n_head.unwrap_or(12);
        let n_embd = self.n_embd.unwrap_or(768);
        let mlp = self.mlp.unwrap_or(Mlp::Gelu);
        let bias = self.bias.unwrap_or(true);
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => {
                let message = format!(
                    "model.n_embd = {n_embd} is not a multiple of model.n_head = {n_head}; change one of them, or write \
                     model.head_dim"
                );
                return Err(Problem::new("model.n_embd", message));
            }
        };
        let mlp_dim = self.mlp_dim.unwrap_or(match mlp {
            // Three matrices in place of two: 2/3 of the width keeps the parameters (Shazeer 2020).
            Mlp::Swiglu => n_embd.saturating_mul(8).div_ceil(3).next_multiple_of(64),
            Mlp::Gelu | Mlp::GeluErf | Mlp::Relu2 => n_embd.saturating_mul(4),
        });
        Ok(ModelConfig {
            n_layer: self.n_layer.unwrap_or(12),
            n_head,
            n_kv_head: self.n_kv_head.unwrap_or(n_head),
            head_dim,
            n_embd,
            mlp_dim,
            context_length: self.context_length.unwrap_or(1024),
            vocab_size: self.vocab_size.unwrap_or(tokenizer_vocab),
            norm: self.norm.unwrap_or(Norm::Layernorm),
            norm_position: self.norm_position.unwrap_or(NormPosition::Pre),
            norm_eps: self.norm_eps.unwrap_or(1e-5),
            position: self.position.unwrap_or(Position::Learned),
            rope_theta: self.rope_theta.unwrap_or(10_000.0),
            mlp,
            qkv_bias: self.qkv_bias.unwrap_or(bias),
            bias,
            tie_embeddings: self.tie_embeddings.unwrap_or(true),
            dropout: self.dropout.unwrap_or(0.0),
        })
    }

    /// The folder's shape, after a check that no written key says otherwise.
    fn agree(&self, init: &ModelConfig) -> Result<ModelConfig, Problem> {
        let folder = self.init_from.as_deref().unwrap_or("model.init_from");
        let agrees = Agreement { folder };
        agrees.check("model.n_layer", self.n_layer, init.n_layer)?;
        agrees.check("model.n_head", self.n_head, init.n_head)?;
        agrees.check("model.n_kv_head", self.n_kv_head, init.n_kv_head)?;
        agrees.check("model.n_embd", self.n_embd, init.n_embd)?;
        agrees.check("model.context_length", self.context_length, init.context_length)?;
        agrees.check("model.vocab_size", self.vocab_size, init.vocab_size)?;
        agrees.check("model.head_dim", self.head_dim, init.head_dim)?;
        agrees.check("model.mlp_dim", self.mlp_dim, init.mlp_dim)?;
        agrees.check("model.norm", self.norm, init.norm)?;
        agrees.check("model.norm_position", self.norm_position, init.norm_position)?;
        agrees.check("model.norm_eps", self.norm_eps, init.norm_eps)?;
        agrees.check("model.position", self.position, init.position)?;
        agrees.check("model.rope_theta", self.rope_theta, init.rope_theta)?;
        agrees.check("model.mlp", self.mlp, init.mlp)?;
        agrees.check("model.qkv_bias", self.qkv_bias, init.qkv_bias)?;
        agrees.check("model.bias", self.bias, init.bias)?;
        agrees.check("model.tie_embeddings", self.tie_embeddings, init.tie_embeddings)?;
        Ok(ModelConfig { dropout: self.dropout.unwrap_or(init.dropout), ..init.clone() })
    }
}

/// The comparison of written keys with a folder's.
struct Agreement<'a> {
    folder: &'a str,
}

impl Agreement<'_> {
    fn check<T: PartialEq + Debug + Serialize>(&self, key: &str, written: Option<T>, found: T) -> Result<(), Problem> {
        let Some(written) = written.filter(|written| *written != found) else { return Ok(()) };
        // As JSON, which for numbers, booleans and words is how TOML writes them.
        let show = |value: &T| serde_json::to_string(value).unwrap_or_else(|_| format!("{value:?}"));
        let message = format!(
            "{key} = {} contradicts the model in {}, which has {}; remove the key, or init_from",
            show(&written),
            self.folder,
            show(&found)
        );
        Err(Problem::new(key, message))
    }
}
