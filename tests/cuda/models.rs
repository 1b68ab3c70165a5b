//! Tiny models that between them use every operator.

use taper::arch::ModelConfig;
use taper::arch::config::{Mlp, Norm, NormPosition, Position};

/// GPT-2's shape: learned positions, LayerNorm, GELU, biases, tied embeddings; heads of 64, the fast attention.
pub fn gpt2() -> ModelConfig {
    ModelConfig {
        n_layer: 2,
        n_head: 2,
        n_kv_head: 2,
        n_embd: 128,
        head_dim: 64,
        mlp_dim: 192,
        context_length: 40,
        vocab_size: 101,
        norm: Norm::Layernorm,
        norm_position: NormPosition::Pre,
        norm_eps: 1e-5,
        position: Position::Learned,
        rope_theta: 10_000.0,
        mlp: Mlp::Gelu,
        qkv_bias: true,
        bias: true,
        tie_embeddings: true,
        dropout: 0.0,
    }
}

/// Llama's shape: rotary positions, RMSNorm, SwiGLU, no biases, grouped queries; heads of 16, the slow attention.
pub fn llama() -> ModelConfig {
    ModelConfig {
        n_head: 4,
        n_kv_head: 2,
        n_embd: 48,
        head_dim: 16,
        mlp_dim: 56,
        norm: Norm::Rmsnorm,
        position: Position::Rope,
        mlp: Mlp::Swiglu,
        qkv_bias: false,
        bias: false,
        tie_embeddings: false,
        ..gpt2()
    }
}

/// What the others leave out: dropout, norms after the branches, the exact GELU.
pub fn dropout() -> ModelConfig {
    ModelConfig { dropout: 0.2, norm_position: NormPosition::Post, mlp: Mlp::GeluErf, mlp_dim: 96, ..gpt2() }
}
