//! How many parameters and floating-point operations a shape has.

use super::config::{Mlp, ModelConfig, NormPosition};
use super::step::{Operator, operators};
use crate::device::DType;
use crate::ops;
use crate::ops::attention::cost::{ACCOUNTED, flops_of_query};

impl ModelConfig {
    /// Multiplications' operations of one token, forward and backward, in the usual accounting (Chowdhery et al. 2022,
    /// PaLM, appendix B): 6 for each weight that multiplies an activation (the output layer included, tied or not; the
    /// embeddings, which are looked up, not), and 12 L H D T for attention over a full context, without the causal half.
    pub fn flops_per_token(&self) -> u64 {
        let flops = |(operator, count): (Operator, usize)| {
            let attention = match operator {
                Operator::Attention { heads } => flops_of_query(ACCOUNTED, self.context_length, heads.width()),
                _ => 0,
            };
            (count * (6 * operator.multiplied() + attention)) as u64
        };
        operators(self).into_iter().map(flops).sum()
    }

    /// Bytes that training needs on the CPU engine, estimated: parameters and gradients (8 bytes a parameter), the
    /// optimizer's state (`state_bytes` a parameter), in bf16 the copy of the parameters (2 more), and the buffers that a
    /// step leaves in the pool; activations are in `dtype`, statistics and a chunk of logits in f32. A buffer of one size
    /// does not serve another, so the buffers of both full moments count, those of the classifier and those of the way
    /// back.
    ///
    /// Next to them stand the workspaces of operators, which follow the machine: panels of matrix products, up to 16 MiB and
    /// 1 MiB for each thread.
    ///
    /// `tests/memory/training.rs` holds the formula against what the buffer pool counts.
    pub fn training_bytes(
        &self,
        parameters: usize,
        state_bytes: usize,
        micro_batch: usize,
        recompute: bool,
        dtype: DType,
    ) -> u64 {
        let (tokens, size) = (micro_batch * self.context_length, dtype.size());
        let logits = ops::classifier::cpu::buffer_elements(tokens, self.vocab_size);
        let Widths { activations, statistics } = self.widths(recompute);
        let copy = if dtype == DType::F32 { 0 } else { size };
        ((8 + state_bytes + copy) * parameters + size * tokens * activations + 4 * (tokens * statistics + logits))
            as u64
    }

    /// [`ModelConfig::training_bytes`] on a GPU that computes in `dtype`: activations are in that dtype, statistics in f32,
    /// and a narrow dtype has its copy of the parameters.
    ///
    /// `tests/cuda/memory.rs` holds the formula against what the GPU's pool counts.
    pub fn training_bytes_on_gpu(
        &self,
        parameters: usize,
        state_bytes: usize,
        micro_batch: usize,
        recompute: bool,
        dtype: DType,
    ) -> u64 {
        let (tokens, size) = (micro_batch * self.context_length, dtype.size());
        let logits = ops::classifier::cuda::buffer_elements(tokens, self.vocab_size);
        let Widths { activations, statistics } = self.widths(recompute);
        // The norms' gradients are made next to those of their outputs; and attention's row sums.
        let activations = activations + 2 * self.n_embd;
        let statistics = statistics + self.n_head;
        // Places of tokens, sorted, for the gradient of the embedding, and tokens and targets themselves.
        let lists = 24 * tokens;
        let copy = if dtype == DType::F32 { 0 } else { size };
        ((8 + state_bytes + copy) * parameters
            + lists
            + size * (tokens * activations + logits)
            + 4 * tokens * statistics) as u64
    }

    /// What a step keeps for each token.
    fn widths(&self, recompute: bool) -> Widths {
        let (c, inner, attn) = (self.n_embd, self.mlp_dim, self.attn_dim());
        let gated = self.mlp == Mlp::Swiglu;
        let up = if gated { 2 * inner } else { inner };
        // Kept by a block: both norms' inputs and outputs (or outputs and inputs, in post-norm), packed queries, keys and
        // values, attention's output, both widths of the mlp; and the norms' statistics, attention's log-sum-exp.
        let block = 4 * c + self.qkv_dim() + attn + up + inner;
        let block_statistics = 4 + self.n_head;
        // The embeddings' sum, then the blocks: with recomputation their results, and one block at a time.
        let (stored, layers) = if recompute { (self.n_layer * c, 1) } else { (0, self.n_layer) };
        // In the classifier: the last norm's output, the gradient there, the losses.
        let last = if self.norm_position == NormPosition::Pre { 2 * c } else { c };
        // On the way back: a gradient of each width. Those of width C find spent buffers; gelu's and relu2's is made in
        // place of their output's, swiglu's is not.
        let gradients = self.qkv_dim() + inner + if gated { up } else { 0 } + if attn == c { 0 } else { attn };
        Widths {
            activations: c + stored + layers * block + last + gradients,
            statistics: layers * block_statistics + 1,
        }
    }
}

/// Elements for each token of a step.
struct Widths {
    /// In the dtype of activations.
    activations: usize,
    /// In f32.
    statistics: usize,
}
