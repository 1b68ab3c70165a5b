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

/// Defines the section and, key by key, what is done with all of its keys. `shape` are those that must agree with the
/// model of `init_from`, `training` those that may differ, `source` those that are no part of a resolved shape.
macro_rules! section {
    (
        $(#[$about:meta])*
        section $section:ident;
        shape { $($(#[$shape_doc:meta])* $shape:ident: $shape_type:ty,)* }
        training { $($(#[$training_doc:meta])* $training:ident: $training_type:ty,)* }
        source { $($(#[$source_doc:meta])* $source:ident: $source_type:ty,)* }
    ) => {
        $(#[$about])*
        pub struct $section {
            $($(#[$shape_doc])* pub $shape: Option<$shape_type>,)*
            $($(#[$training_doc])* pub $training: Option<$training_type>,)*
            $($(#[$source_doc])* pub $source: Option<$source_type>,)*
        }

        impl $section {
            /// Writes a resolved shape into the section, so that every key is explicit. `init_from` stays.
            pub fn set(&mut self, resolved: &ModelConfig) {
                $(self.$shape = Some(resolved.$shape);)*
                $(self.$training = Some(resolved.$training);)*
            }

            /// Checks that the sizes that are written are in range, before any arithmetic with them.
            fn check_ranges(&self) -> Result<(), Problem> {
                $(self.$shape.map_or(Ok(()), |value| value.check(concat!("model.", stringify!($shape))))?;)*
                Ok(())
            }

            /// The written keys, and those of `defaults` for the others.
            fn over(&self, defaults: &ModelConfig) -> ModelConfig {
                ModelConfig {
                    $($shape: self.$shape.unwrap_or(defaults.$shape),)*
                    $($training: self.$training.unwrap_or(defaults.$training),)*
                }
            }

            /// The folder's shape, after a check that no written key says otherwise.
            fn agree(&self, init: &ModelConfig) -> Result<ModelConfig, Problem> {
                let folder = self.init_from.as_deref().unwrap_or("model.init_from");
                $(agrees(folder, concat!("model.", stringify!($shape)), self.$shape, init.$shape)?;)*
                Ok(self.over(init))
            }
        }
    };
}

section! {
    /// The shape of the model. The defaults are GPT-2's (124M parameters with its tokenizer). With `init_from` all keys but
    /// `dropout` come from that folder, and one that is written must agree with it.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    section ModelSection;
    shape {
        /// Number of blocks.
        #[schemars(extend("x-default" = "12"))]
        n_layer: usize,
        /// Number of query heads.
        #[schemars(extend("x-default" = "12"))]
        n_head: usize,
        /// Number of key and value heads; divides `n_head`. Fewer is grouped-query attention (Ainslie et al. 2023).
        #[schemars(extend("x-default" = "`n_head`"))]
        n_kv_head: usize,
        /// Width of the model: the length of a token's vector between the blocks.
        #[schemars(extend("x-default" = "768"))]
        n_embd: usize,
        /// Length of the sequences the model is trained on, and the longest it can read.
        #[schemars(extend("x-default" = "1024"))]
        context_length: usize,
        /// Number of token ids; at least the tokenizer's.
        #[schemars(extend("x-default" = "the tokenizer's"))]
        vocab_size: usize,
        /// Size of one attention head.
        #[schemars(extend("x-default" = "`n_embd / n_head`"))]
        head_dim: usize,
        /// Width inside the feed-forward layer.
        #[schemars(extend("x-default" = "`4 * n_embd`; with `mlp = \"swiglu\"` `8/3 * n_embd`, rounded up to a multiple of 64"))]
        mlp_dim: usize,
        /// The normalisation before (or after) each sub-layer.
        #[schemars(extend("x-default" = "\"layernorm\""))]
        norm: Norm,
        /// Where the normalisation stands.
        #[schemars(extend("x-default" = "\"pre\""))]
        norm_position: NormPosition,
        /// Added to the variance (or mean square) inside the normalisation.
        #[schemars(extend("x-default" = "1e-5"))]
        norm_eps: f64,
        /// How the model knows where a token stands.
        #[schemars(extend("x-default" = "\"learned\""))]
        position: Position,
        /// For `position = "rope"`: the base of the rotary frequencies.
        #[schemars(extend("x-default" = "10000.0"))]
        rope_theta: f64,
        /// The feed-forward layer.
        #[schemars(extend("x-default" = "\"gelu\""))]
        mlp: Mlp,
        /// Whether the query, key and value projections have a bias.
        #[schemars(extend("x-default" = "`bias`"))]
        qkv_bias: bool,
        /// Whether the other linear layers, and LayerNorm, have a bias.
        #[schemars(extend("x-default" = "true"))]
        bias: bool,
        /// Whether the output layer shares the token embedding's weights.
        #[schemars(extend("x-default" = "true"))]
        tie_embeddings: bool,
    }
    training {
        /// Dropout probability on embeddings, attention weights and both residual branches, in training only. It is not
        /// part of the shape: with `init_from` it may differ.
        #[schemars(extend("x-default" = "0.0; with `init_from` the folder's"))]
        dropout: f64,
    }
    source {
        /// A model folder to start from in place of random weights.
        #[schemars(extend("x-default" = "not set: random weights"))]
        init_from: String,
    }
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

    /// Checks that the sizes that are written are in range, before any arithmetic with them.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        self.check_ranges()?;
        if self.init_from.as_deref() == Some("") {
            return Err(Problem::expected("model.init_from", "\"\"", "a model folder"));
        }
        Ok(())
    }

    /// The written keys, and the defaults for the others.
    fn fill(&self, tokenizer_vocab: usize) -> Result<ModelConfig, Problem> {
        let gpt2 = ModelConfig::gpt2(12, 12, 768, 1024, tokenizer_vocab);
        let n_head = self.n_head.unwrap_or(gpt2.n_head);
        let n_embd = self.n_embd.unwrap_or(gpt2.n_embd);
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
        let mlp_dim = match self.mlp.unwrap_or(gpt2.mlp) {
            // Three matrices in place of two: 2/3 of the width keeps the parameters (Shazeer 2020).
            Mlp::Swiglu => n_embd.saturating_mul(8).div_ceil(3).next_multiple_of(64),
            Mlp::Gelu | Mlp::GeluErf | Mlp::Relu2 => n_embd.saturating_mul(4),
        };
        let qkv_bias = self.bias.unwrap_or(gpt2.bias);
        Ok(self.over(&ModelConfig { n_kv_head: n_head, head_dim, mlp_dim, qkv_bias, ..gpt2 }))
    }
}

/// A value of a key of the shape.
trait Value: PartialEq + Debug + Serialize {
    /// Checks that it is in range.
    fn check(self, key: &str) -> Result<(), Problem>;
}

impl Value for usize {
    fn check(self, key: &str) -> Result<(), Problem> {
        count(key, self as u64)
    }
}

/// Values whose range only the whole shape can tell.
macro_rules! any {
    ($($kind:ty),*) => {
        $(impl Value for $kind {
            fn check(self, _: &str) -> Result<(), Problem> {
                Ok(())
            }
        })*
    };
}

any!(bool, f64, Norm, NormPosition, Position, Mlp);

/// Checks that what is written is what the model in `folder` has.
fn agrees<T: Value>(folder: &str, key: &str, written: Option<T>, found: T) -> Result<(), Problem> {
    let Some(written) = written.filter(|written| *written != found) else { return Ok(()) };
    // As JSON, which for numbers, booleans and words is how TOML writes them.
    let show = |value: &T| serde_json::to_string(value).unwrap_or_else(|_| format!("{value:?}"));
    let message = format!(
        "{key} = {} contradicts the model in {folder}, which has {}; remove the key, or init_from",
        show(&written),
        show(&found)
    );
    Err(Problem::new(key, message))
}
