//! The time of a step on one GPU: a roofline for each group of operators (Williams et al. 2009). A group takes as long as
//! its floating-point operations or its bytes, whichever is slower, at the assumed shares of the peaks; groups follow each
//! other.
//!
//! L layers, T context, N parameters, s bytes of an activation. What operators move and compute is told by
//! [`crate::ops::cost`] and [`crate::arch::step`].

use serde::Serialize;

use super::{Choice, Job, Layout};
use crate::arch::step::{Operator, operators};
use crate::device::peak::Peaks;
use crate::ops::attention::cost::{BACKWARD, FORWARD};
use crate::ops::cost::Counting;
use crate::ops::{adamw, attention, classifier, embedding, gradnorm, layernorm, linear};
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
    let l = shape.n_layer as f64;
    let s = job.precision.dtype().size() as f64;
    let again = if choice.recompute { 1.0 } else { 0.0 };

    // Per token: forward and both gradients; forward once more where blocks are recomputed.
    let (mut blocks, mut output, mut biases, mut logits) = (0.0, 0.0, 0.0, 0.0);
    let (mut attention, mut attention_moved, mut activation, mut rope, mut embedded) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (operator, count) in operators(shape) {
        let count = count as f64;
        let per_token = operator.cost(1, 1);
        let (forward, backward) = (per_token.forward.activations as f64, per_token.backward.activations as f64);
        let moved = count * (forward * (1.0 + again) + backward);
        match operator {
            Operator::Linear { outs, bias, .. } => {
                blocks += count * operator.multiplied() as f64;
                biases += if bias { count * linear::cost::bias_gradient(1, outs) as f64 } else { 0.0 };
            }
            Operator::Classifier { vocabulary, .. } => {
                output += count * operator.multiplied() as f64;
                logits += classifier::cost::logits(1, vocabulary) as f64;
            }
            Operator::Attention { heads } => {
                // The causal half, by the token.
                let t = shape.context_length;
                let of = |products| attention::cost::flops_of_query(products, t, heads.width()) as f64 / 2.0;
                attention += count * (of(FORWARD) * (1.0 + again) + of(BACKWARD));
                attention_moved += moved;
            }
            Operator::Activation { .. } => activation += moved,
            Operator::Rope { .. } => rope += moved,
            Operator::Embedding { vocabulary, width, .. } => {
                // Positions stay in the cache.
                let cost = embedding::cost::cost(1, 1, width, vocabulary, false, Counting::EachUse);
                embedded += cost.activations() as f64;
            }
            // Norms and sums are counted together below.
            Operator::Norm { .. } | Operator::AddNorm { .. } | Operator::Residual { .. } => {}
            // Dropout is part of no plan: what is pretrained has none.
            Operator::Dropout { .. } | Operator::LowRank { .. } => {}
        }
    }
    let products = 6.0 * (blocks + output) + 2.0 * again * blocks;
    // Each counts as one with a sum, and one stands behind the blocks whatever their kind.
    let norm = layernorm::cost::cost_of_sum(1, shape.n_embd);
    let (forward, backward) = (norm.forward.activations as f64, norm.backward.activations as f64);
    let norms = (forward + backward) * (2.0 * l + 1.0) + again * forward * 2.0 * l;
    let mut groups = vec![
        rates.group("matrix products", products * tokens, rates.gemm, s * 3.0 * (blocks + output)),
        rates.group("attention", attention * tokens, rates.attention, s * attention_moved * tokens),
        rates.stream("norms and residuals", s * norms * tokens),
        rates.stream("activation function", s * activation * tokens),
        rates.stream("bias gradients", s * biases * tokens),
        rates.stream("rotary positions", s * rope * tokens),
        rates.stream("classifier", s * logits * tokens),
        rates.stream("embedding", s * embedded * tokens),
        // The products that add to a gradient read it first.
        rates.stream("gradient accumulation", 4.0 * job.parameters() as f64),
    ];
    groups.retain(|group| group.seconds > 0.0);
    groups
}

/// What a step does once, after its micro-batches or between its lanes.
fn once_a_step(job: &Job, choice: Choice, layout: Layout, rates: &Rates, world: usize) -> Vec<Group> {
    let n = job.parameters() as f64;
    let dtype = job.precision.dtype();
    let lanes = (layout.lanes / world) as f64;
    let part = if choice.shard_optimizer { world as f64 } else { 1.0 };
    // Cleared once a lane; each sum in the tree reads two buffers and writes one.
    let tree = 4.0 * n * lanes + 12.0 * n * (lanes - 1.0);
    vec![
        rates.stream("lanes", tree),
        rates.stream("gradient norm", gradnorm::cost::BYTES_PER_PARAMETER as f64 * n / part),
        rates.stream("AdamW", adamw::cost::bytes_per_parameter(job.state_bytes, dtype) as f64 * n / part),
    ]
}
