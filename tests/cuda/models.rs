//! Tiny models that between them use every operator.

use taper::arch::ModelConfig;
use taper::arch::config::{Mlp, NormPosition};

use super::shapes;

/// GPT-2's shape: learned positions, LayerNorm, GELU, biases, tied embeddings; heads of 64, the fast attention.
pub fn gpt2() -> ModelConfig {
    ModelConfig { mlp_dim: 192, ..ModelConfig::gpt2(2, 2, 128, 40, 101) }
}

/// Llama's shape: rotary positions, RMSNorm, SwiGLU, no biases, grouped queries; heads of 16, the slow attention.
pub fn llama() -> ModelConfig {
    ModelConfig { n_head: 4, n_embd: 48, head_dim: 16, mlp_dim: 56, ..shapes::llama(&gpt2()) }
}

/// What the others leave out: dropout, norms after the branches, the exact GELU.
pub fn dropout() -> ModelConfig {
    ModelConfig { dropout: 0.2, norm_position: NormPosition::Post, mlp: Mlp::GeluErf, mlp_dim: 96, ..gpt2() }
}
