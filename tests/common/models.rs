//! Shapes of models. Use from the root of a test binary with `#[path = "../common/models.rs"] mod models;`.

use taper::arch::ModelConfig;
use taper::arch::config::{Mlp, Norm, Position};

/// Llama's options, otherwise like `base`: rotary positions, RMSNorm, SwiGLU, two key-value heads, no biases, an output
/// layer of its own.
pub fn llama(base: &ModelConfig) -> ModelConfig {
    ModelConfig {
        norm: Norm::Rmsnorm,
        position: Position::Rope,
        mlp: Mlp::Swiglu,
        n_kv_head: 2,
        bias: false,
        qkv_bias: false,
        tie_embeddings: false,
        ..base.clone()
    }
}
