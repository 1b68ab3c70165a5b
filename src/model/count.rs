//! How many parameters and floating-point operations a shape has.

use super::config::{Mlp, ModelConfig, NormPosition};
use crate::ops;

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

    /// Bytes that a training step needs at its peak on the CPU engine, estimated: parameters, gradients and two moments (16
    /// bytes a parameter), and what the tape holds at its fullest moment. That is either inside the classifier, when all
    /// activations stand that the way back needs, or at the start of the way back, in the last block.
    ///
    /// `tests/memory.rs` holds the formula against what the buffer pool counts.
    pub fn training_bytes(&self, parameters: usize, micro_batch: usize, recompute: bool) -> u64 {
        let tokens = micro_batch * self.context_length;
        let (c, inner) = (self.n_embd, self.mlp_dim);
        let up = if self.mlp == Mlp::Swiglu { 2 * inner } else { inner };
        // Kept by a block for each token: both norms' inputs and outputs (or outputs and inputs, in post-norm) and their
        // statistics, packed queries, keys and values, attention's output and log-sum-exp, both widths of the mlp.
        let block = 4 * c + 4 + self.qkv_dim() + self.attn_dim() + self.n_head + up + inner;
        // The embeddings' sum, then the blocks: with recomputation only their results.
        let kept = c + self.n_layer * if recompute { c } else { block };
        // Backward in the last block, run again before if it was not kept. Its output's gradient takes the place of its
        // output. In the mlp: the gradient of the activation (which gelu and relu2 turn in place, and swiglu does not), and
        // dropout's copy. In attention, where the mlp is spent already: the gradients of its output and of the packed rows.
        let copy = if self.dropout > 0.0 { c } else { 0 };
        let in_mlp = if self.mlp == Mlp::Swiglu { up } else { inner + copy };
        let in_attention = (self.qkv_dim() + self.attn_dim()).saturating_sub(c + up + inner);
        let backward = if recompute { block } else { 0 } + in_mlp.max(in_attention);
        // In the classifier: the last norm's output, the gradient there, the losses, and one chunk of logits.
        let normed = if self.norm_position == NormPosition::Pre { c } else { 0 };
        let classifier = tokens * (normed + c + 1) + ops::classifier::cpu::buffer_elements(tokens, self.vocab_size);
        16 * parameters as u64 + 4 * (tokens * kept + classifier.max(tokens * backward)) as u64
    }
}
