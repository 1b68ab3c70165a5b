//! How many parameters and floating-point operations a shape has.

use super::config::{Mlp, ModelConfig};

impl ModelConfig {
    /// Multiplications' operations of one token, forward and backward, in the usual accounting (Chowdhery et al. 2022,
    /// PaLM, appendix B): 6 for each weight that multiplies an activation (the output layer included, tied or not; the
    /// embeddings, which are looked up, not), and 12 L H D T for attention over a full context, without the causal half.
    pub fn flops_per_token(&self) -> u64 {
        let (c, l) = (self.n_embd as u64, self.n_layer as u64);
        let up = if self.mlp == Mlp::Swiglu { 2 * self.mlp_dim } else { self.mlp_dim } as u64;
        let block = c * self.qkv_dim() as u64 + c * self.attn_dim() as u64 + c * up + c * self.mlp_dim as u64;
        let weights = l * block + c * self.vocab_size as u64;
        6 * weights + 12 * l * self.attn_dim() as u64 * self.context_length as u64
    }

    /// Bytes that a training step needs at its peak on the CPU engine, estimated: parameters, gradients and moments (16
    /// bytes a parameter), the activations that backward needs, and the work buffers of the widest operator.
    pub fn training_bytes(&self, parameters: usize, micro_batch: usize, recompute: bool) -> u64 {
        let tokens = (micro_batch * self.context_length) as u64;
        let c = self.n_embd as u64;
        let up = if self.mlp == Mlp::Swiglu { 2 * self.mlp_dim } else { self.mlp_dim } as u64;
        // Saved per token by a block: norm input and output twice, qkv, attention output and log-sum-exp, both widths of
        // the feed-forward layer; and what stands at the same time while a block runs backwards.
        let block = 4 * c + self.qkv_dim() as u64 + (self.attn_dim() + self.n_head) as u64 + up + self.mlp_dim as u64;
        let stored = if recompute { c * self.n_layer as u64 + block } else { block * self.n_layer as u64 };
        let transient = 4 * c + up + self.mlp_dim as u64;
        let classifier = (4u64 << 20).max(64 * self.vocab_size as u64).min(tokens * self.vocab_size as u64);
        16 * parameters as u64 + 4 * (tokens * (stored + transient + 4 * c) + classifier)
    }
}
