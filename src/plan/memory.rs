//! The memory of one GPU, by part: the memory model of training ([`crate::train::batch::Memory`]) taken apart, and what
//! other programs and several GPUs add to it.

use serde::Serialize;

use super::{Choice, Job};
use crate::ops::classifier;

/// What no allocation of ours sees: the CUDA context, compiled kernels, cuBLASLt's workspace of 32 MiB. Assumed.
pub const CONTEXT: u64 = 800 << 20;
/// NCCL's own buffers. Assumed.
pub const NCCL: u64 = 512 << 20;

/// Bytes of one GPU at the peak of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Parts {
    /// Master weights, f32.
    pub weights: u64,
    /// The weights in bf16 or fp16, that products read.
    pub compute_copy: u64,
    /// Gradients, f32: one buffer for each level of the lane tree on this GPU.
    pub gradients: u64,
    /// The optimizer's state, f32: of AdamW the two moments.
    pub moments: u64,
    /// Activations, statistics and gradients on the way back, of one micro-batch.
    pub activations: u64,
    /// Logits of one chunk of the classifier.
    pub logits: u64,
    /// What one bucket of gradients receives from the other GPUs, and NCCL's buffers.
    pub communication: u64,
    /// Context, kernels and workspace.
    pub workspace: u64,
}

impl Parts {
    /// The parts for `micro_batch` sequences at once and `buffers` gradient buffers, on one of `world` GPUs.
    pub fn of(job: &Job, choice: Choice, micro_batch: usize, buffers: usize, world: usize) -> Parts {
        let (n, world) = (job.parameters() as u64, world as u64);
        let dtype = job.precision.dtype();
        let size = dtype.size() as u64;
        let narrow = size < 4;
        // ZeRO-1 shares out the optimizer's state; the master weights too, where products read a copy of them.
        let shared = |bytes: u64| if choice.shard_optimizer { bytes.div_ceil(world) } else { bytes };
        let tokens = micro_batch * job.shape.context_length;
        let logits = size * classifier::cuda::buffer_elements(tokens, job.shape.vocab_size) as u64;
        // No parameters: what is left is what depends on the micro-batch.
        let batch = job.shape.training_bytes_on_gpu(0, job.state_bytes, micro_batch, choice.recompute, dtype);
        let (block, tail) = job.buckets();
        Parts {
            weights: if narrow { shared(4 * n) } else { 4 * n },
            compute_copy: if narrow { size * n } else { 0 },
            gradients: 4 * n * buffers as u64,
            moments: shared(job.state_bytes as u64 * n),
            activations: batch - logits,
            logits,
            communication: if world > 1 { 4 * block.max(tail) as u64 + NCCL } else { 0 },
            workspace: CONTEXT,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Names and bytes.
    pub fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("weights (fp32)", self.weights),
            ("compute copy", self.compute_copy),
            ("gradients and lane buffers", self.gradients),
            ("moments", self.moments),
            ("activations", self.activations),
            ("logits chunk", self.logits),
            ("communication", self.communication),
            ("context and workspace", self.workspace),
        ]
    }
}
