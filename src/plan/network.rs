//! What GPUs tell each other in a step: an alpha-beta model (Hockney 1994) of the ordered reduction.
//!
//! A message of n bytes takes alpha + n / beta. Gradients are summed over fixed lanes in a fixed tree: a
//! reduce-scatter, then an all-gather, which move the bytes of a ring. Inside a machine they go over its link; between
//! machines each machine sends what its GPUs have summed over its network. Buckets, one for each block, are sent while
//! the last micro-batch goes backward; the bucket of embeddings and last norm is full only at its end, so that nothing
//! hides it.

use serde::Serialize;

use super::gpus::{Gpu, Link};
use super::{Choice, Cluster, Job};

/// Shares of the nominal bandwidths that collectives are assumed to reach.
pub const NVLINK_SHARE: f64 = 0.75;
/// See [`NVLINK_SHARE`]: all GPUs send at once through the host's bridges.
pub const PCIE_SHARE: f64 = 0.35;
/// See [`NVLINK_SHARE`].
pub const NETWORK_SHARE: f64 = 0.85;
/// Seconds before the first byte, for each doubling of the GPUs of a machine, and of the machines.
pub const ALPHA_LINK: f64 = 10e-6;
/// See [`ALPHA_LINK`].
pub const ALPHA_NETWORK: f64 = 30e-6;
/// The ordered sum against a ring's: its local sums are not pipelined with the transfer.
pub const ORDERED: f64 = 1.10;
/// The part of a micro-batch that goes backward.
const BACKWARD: f64 = 2.0 / 3.0;

/// The communication of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// Bytes that one GPU sends.
    pub bytes: f64,
    /// Time, if nothing hid it.
    pub seconds: f64,
    /// What the backward pass hides of it.
    pub hidden: f64,
    /// What is left, and adds to the step.
    pub exposed: f64,
}

/// The communication of a step whose last micro-batch takes `micro_batch_seconds`.
pub fn traffic(job: &Job, choice: Choice, cluster: &Cluster, micro_batch_seconds: f64) -> Traffic {
    if cluster.world() == 1 {
        return Traffic::default();
    }
    let (block, tail) = job.buckets();
    let (layers, n) = (job.shape.n_layer as f64, job.parameters() as f64);
    // The sums come back as gradients, or, where the optimizer is sharded, as new weights after the update.
    let narrow = job.precision.dtype().size() as f64;
    let phases = if choice.shard_optimizer { 1.0 } else { 2.0 };
    let bucket = |elements: usize| phases * phase(cluster, 4.0 * elements as f64);
    let (blocks, last) = (layers * bucket(block), bucket(tail));
    let weights = if choice.shard_optimizer { phase(cluster, narrow * n) } else { 0.0 };
    // The first bucket is full when one block has gone backward.
    let of_blocks = 1.0 - (job.shape.n_embd * job.shape.vocab_size) as f64 / products(job);
    let window = BACKWARD * micro_batch_seconds * of_blocks * (layers - 1.0) / layers;
    let hidden = blocks.min(window);
    let seconds = blocks + last + weights;
    let world = cluster.world() as f64;
    let sent = n * (4.0 * phases + if choice.shard_optimizer { narrow } else { 0.0 });
    Traffic { bytes: sent * (world - 1.0) / world, seconds, hidden, exposed: seconds - hidden }
}

/// Weights that multiply, the output layer's included.
fn products(job: &Job) -> f64 {
    let shape = job.shape;
    let attention = 12 * shape.n_layer * shape.attn_dim() * shape.context_length;
    (shape.flops_per_token() as f64 - attention as f64) / 6.0
}

/// Seconds of one reduce-scatter or all-gather of a buffer of so many bytes.
pub fn phase(cluster: &Cluster, bytes: f64) -> f64 {
    let (inside, between) = (cluster.gpus as f64, cluster.nodes as f64);
    let part = |count: f64| (count - 1.0) / count;
    let link = bytes * part(inside) / link_rate(cluster.gpu) + ALPHA_LINK * inside.log2();
    let network = bytes * part(between) / network_rate(cluster) + ALPHA_NETWORK * between.log2();
    ORDERED * (link + network)
}

/// Bytes per second that one GPU sends inside its machine.
pub fn link_rate(gpu: &Gpu) -> f64 {
    gpu.link_bandwidth
        * match gpu.link {
            Link::Nvlink => NVLINK_SHARE,
            Link::Pcie => PCIE_SHARE,
        }
}

/// Bytes per second that one machine sends.
pub fn network_rate(cluster: &Cluster) -> f64 {
    cluster.network_gbit * 1e9 / 8.0 * NETWORK_SHARE
}
