//! The time of a step on one GPU: a roofline for each group of operators (Williams et al. 2009). A group takes as long as
//! its floating-point operations or its bytes, whichever is slower, at the assumed shares of the peaks; groups follow each
//! other.
//!
//! C width, L layers, A attention's width, M the mlp's, V vocabulary, T context, N parameters, s bytes of an activation.

use serde::Serialize;

use super::{Choice, Job, Layout};
use crate::arch::config::{Mlp, Position};
use crate::device::peak::Peaks;
use crate::train::config::Precision;

use super::gpus::{Gpu, Shares};

/// No kernel takes less than this from start to start, in seconds.
pub const LAUNCH: f64 = 5e-6;
/// Kernels of a block, forward and backward, and of what stands around the blocks.
const KERNELS_FORWARD: usize = 9;
const KERNELS_BACKWARD: usize = 18;
const KERNELS_AROUND: usize = 12;

/// Operators of one kind in one step of one GPU.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// What they are.
    pub name: &'static str,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes moved to and from memory, at least.
    pub bytes: f64,
    /// Time, in seconds.
    pub seconds: f64,
}

/// The work of one GPU in one step, without communication.
#[derive(Clone, Debug, Serialize)]
pub struct Compute {
    /// By kind; all micro-batches together.
    pub groups: Vec<Group>,
    /// Waiting for kernels to start, where they are short.
    pub launch_seconds: f64,
    /// One micro-batch, forward and backward.
    pub micro_batch_seconds: f64,
    /// The whole step.
    pub seconds: f64,
}

/// Dense peak of a precision, in FLOP/s.
pub fn peak(peaks: &Peaks, precision: Precision) -> f64 {
    match precision {
        Precision::Bf16 | Precision::Fp16 => peaks.bf16,
        Precision::Tf32 => peaks.tf32,
        Precision::Fp32 => peaks.fp32,
    }
}

struct Rates {
    gemm: f64,
    attention: f64,
    bandwidth: f64,
}

impl Rates {
    fn group(&self, name: &'static str, flops: f64, rate: f64, bytes: f64) -> Group {
        Group { name, flops, bytes, seconds: (flops / rate).max(bytes / self.bandwidth) }
    }

    fn stream(&self, name: &'static str, bytes: f64) -> Group {
        self.group(name, 0.0, 1.0, bytes)
    }
}

/// The step's time on one of `world` GPUs.
pub fn compute(
    job: &Job,
    choice: Choice,
    layout: Layout,
    gpu: &Gpu,
    peaks: &Peaks,
    shares: Shares,
    world: usize,
) -> Compute {
    let top = peak(peaks, job.precision);
    let rates = Rates {
        gemm: top * shares.gemm,
        attention: top * shares.attention,
        bandwidth: gpu.bandwidth * shares.bandwidth,
    };
    let tokens = (layout.micro_batch * job.shape.context_length) as f64;
    let mut groups = micro_batch(job, choice, &rates, tokens);
    let sum = |groups: &[Group]| groups.iter().map(|group| group.seconds).sum::<f64>();
    let again = if choice.recompute { KERNELS_FORWARD } else { 0 };
    let kernels = job.shape.n_layer * (KERNELS_FORWARD + KERNELS_BACKWARD + again) + KERNELS_AROUND;
    let micro_batch_seconds = sum(&groups).max(kernels as f64 * LAUNCH);
    let count = layout.micro_batches as f64;
    let launch_seconds = count * (micro_batch_seconds - sum(&groups));
    for group in &mut groups {
        group.flops *= count;
        group.bytes *= count;
        group.seconds *= count;
    }
    groups.extend(once_a_step(job, choice, layout, &rates, world));
    let seconds = sum(&groups) + launch_seconds;
    Compute { groups, launch_seconds, micro_batch_seconds, seconds }
}

/// What each micro-batch of so many tokens does.
fn micro_batch(job: &Job, choice: Choice, rates: &Rates, tokens: f64) -> Vec<Group> {
    let shape = job.shape;
    let [c, a, m, v, t, l] =
        [shape.n_embd, shape.attn_dim(), shape.mlp_dim, shape.vocab_size, shape.context_length, shape.n_layer]
            .map(|size| size as f64);
    let (s, qkv) = (job.precision.dtype().size() as f64, shape.qkv_dim() as f64);
    let gated = shape.mlp == Mlp::Swiglu;
    let up = if gated { 2.0 * m } else { m };
    let again = if choice.recompute { 1.0 } else { 0.0 };

    // Forward and both gradients; forward once more where blocks are recomputed.
    let (blocks, output) = (l * (c * qkv + c * a + c * up + c * m), c * v);
    let products = 6.0 * (blocks + output) + 2.0 * again * blocks;
    // The causal half. Forward QK and PV; backward both again with their gradients, QK computed twice: 2 + 5 products.
    let attention = l * a * t * (7.0 + 2.0 * again);
    let attention_bytes = s * l * (qkv + a) * (3.0 + again);
    let norms = s * 4.0 * c * (2.0 * l + 1.0) * 2.0 + again * s * 4.0 * c * 2.0 * l;
    let (forward, backward) = if gated { (3.0 * m, 5.0 * m) } else { (2.0 * m, 3.0 * m) };
    let activation = s * l * (forward * (1.0 + again) + backward);
    let qkv_biases = if shape.qkv_bias { qkv } else { 0.0 };
    let biases = s * l * (qkv_biases + if shape.bias { 2.0 * c + up } else { 0.0 });
    // In place: each of q and k read and written.
    let turned = if shape.position == Position::Rope { (qkv + a) / 2.0 } else { 0.0 };
    let rope = s * l * 2.0 * turned * (2.0 + again);
    let mut groups = vec![
        rates.group("matrix products", products * tokens, rates.gemm, s * 3.0 * (blocks + output)),
        rates.group("attention", attention * tokens, rates.attention, attention_bytes * tokens),
        rates.stream("norms and residuals", norms * tokens),
        rates.stream("activation function", activation * tokens),
        rates.stream("bias gradients", biases * tokens),
        rates.stream("rotary positions", rope * tokens),
        rates.stream("classifier", 2.0 * s * v * tokens),
        rates.stream("embedding", 5.0 * s * c * tokens),
        // The products that add to a gradient read it first.
        rates.stream("gradient accumulation", 4.0 * job.parameters() as f64),
    ];
    groups.retain(|group| group.seconds > 0.0);
    groups
}

/// What a step does once, after its micro-batches or between its lanes.
fn once_a_step(job: &Job, choice: Choice, layout: Layout, rates: &Rates, world: usize) -> Vec<Group> {
    let n = job.parameters() as f64;
    let size = job.precision.dtype().size();
    let lanes = (layout.lanes / world) as f64;
    let part = if choice.shard_optimizer { world as f64 } else { 1.0 };
    // Cleared once a lane; each sum in the tree reads two buffers and writes one.
    let tree = 4.0 * n * lanes + 12.0 * n * (lanes - 1.0);
    // Weights and optimizer state read and written, the gradient read, the copy written.
    let copy = if size < 4 { size as f64 } else { 0.0 };
    vec![
        rates.stream("lanes", tree),
        rates.stream("gradient norm", 4.0 * n / part),
        rates.stream("AdamW", (12.0 + 2.0 * job.state_bytes as f64 + copy) * n / part),
    ]
}
