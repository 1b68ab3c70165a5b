//! What a run would take on GPUs that are not at hand: memory, time of a step, hours, cost. Every number is a prediction of
//! a model; nothing here touches a device.
//!
//! Three models meet: the memory model that training itself uses ([`memory`]), a roofline for each group of operators
//! ([`roofline`]), and an alpha-beta model of the ordered reduction between GPUs ([`network`]). Their constants are printed
//! with every plan ([`Plan::assumptions`]); `docs/plan.md` compares them with published runs.

pub mod gpus;
pub mod memory;
pub mod network;
pub mod roofline;

use serde::Serialize;

use crate::arch::ModelConfig;
use crate::arch::layout::parameter_shapes;
use crate::error::{Error, Result};
use crate::train::batch::SHARE;
use crate::train::config::Precision;
use crate::train::lanes;

use gpus::{Gpu, Link, Shares};
use memory::Parts;
use network::Traffic;
use roofline::Compute;

/// The largest micro-batch that is looked at, in sequences: far beyond what keeps a GPU busy.
const LARGEST: usize = 1 << 14;
/// Parameters, and values of one pass, beyond which no machine of today is a subject of planning (and numbers of 64 bits
/// might not hold their bytes).
const BEYOND: f64 = 1e15;

/// What is to be trained, and how.
#[derive(Clone, Debug)]
pub struct Job<'m> {
    /// The model's shape.
    pub shape: &'m ModelConfig,
    /// Sequences in an optimizer step, over all GPUs.
    pub global_batch: usize,
    /// Sequences at once on one GPU; None for the most that fit.
    pub micro_batch: Option<usize>,
    /// Lanes of the ordered reduction; None for the default.
    pub lanes: Option<usize>,
    /// The number format of activations and products.
    pub precision: Precision,
    /// Bytes of optimizer state for each parameter ([`crate::optim::rule::state_bytes`]).
    pub state_bytes: usize,
    /// Optimizer steps of the run, where they are known.
    pub steps: Option<u64>,
}

impl Job<'_> {
    /// The model's parameters.
    pub fn parameters(&self) -> usize {
        parameter_shapes(self.shape).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Elements of the buckets in which gradients travel: one block's, and the rest (embeddings, last norm).
    pub fn buckets(&self) -> (usize, usize) {
        let first = parameter_shapes(self.shape);
        let block = first.iter().filter(|(name, _)| name.starts_with("h.0."));
        let block: usize = block.map(|(_, shape)| shape.iter().product::<usize>()).sum();
        (block, self.parameters() - block * self.shape.n_layer)
    }
}

/// What may be traded: memory for time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// Blocks are computed again in the backward pass.
    pub recompute: bool,
    /// Each GPU keeps its part of the optimizer's state (ZeRO stage 1, Rajbhandari et al. 2020).
    pub shard_optimizer: bool,
}

/// The machines.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The kind of GPU.
    pub gpu: &'static Gpu,
    /// GPUs of one machine.
    pub gpus: usize,
    /// Machines.
    pub nodes: usize,
    /// The network of one machine, in Gbit/s, in one direction.
    pub network_gbit: f64,
    /// What is assumed to be reached: the table's ([`Gpu::shares`]), or better known numbers.
    pub shares: Shares,
}

impl Cluster {
    /// All GPUs.
    pub fn world(&self) -> usize {
        self.gpus * self.nodes
    }

    fn words(&self) -> String {
        let nodes = if self.nodes > 1 { format!("{} machines of ", self.nodes) } else { String::new() };
        format!("{nodes}{} x {}", self.gpus, self.gpu.name)
    }
}

/// How a global batch is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// Sequences at once on one GPU.
    pub micro_batch: usize,
    /// Micro-batches of one GPU in a step.
    pub micro_batches: usize,
    /// Lanes, over all GPUs.
    pub lanes: usize,
    /// Gradient buffers of one GPU.
    pub gradient_buffers: usize,
}

/// Predictions for one way to train.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// What was traded.
    pub choice: Choice,
    /// How the batch is cut.
    pub layout: Layout,
    /// The largest micro-batch that `train.micro_batch = "auto"` would take.
    pub largest_micro_batch: Option<usize>,
    /// Memory of one GPU, by part, in bytes.
    pub memory: Parts,
    /// Time of one GPU, by operators, in seconds.
    pub compute: Compute,
    /// Communication of one step.
    pub traffic: Traffic,
    /// The whole step, in seconds.
    pub step_seconds: f64,
    /// Tokens per second, over all GPUs.
    pub tokens_per_second: f64,
    /// Model FLOPs utilisation: tokens/s x FLOPs per token / (GPUs x peak).
    pub mfu: f64,
    /// Tokens per second, over those of one GPU that trains the same global batch, and the number of GPUs.
    pub scaling_efficiency: f64,
    /// Steps x step, in hours; None where the steps depend on the data.
    pub hours: Option<f64>,
}

/// The plan of a job.
///
/// # Errors
/// `Usage`: a number of GPUs that the ordered reduction does not take, a batch that they do not divide, or a step that does
/// not fit their memory, with what would.
pub fn plan(job: &Job, choice: Choice, cluster: &Cluster) -> Result<Plan> {
    let choice = Choice { shard_optimizer: choice.shard_optimizer && cluster.world() > 1, ..choice };
    check(job, cluster)?;
    let largest = largest_that_fits(job, choice, cluster);
    let Some(micro_batch) = job.micro_batch.or(largest) else {
        // Lanes that cannot be are no question of memory.
        layout(job, 1, cluster)?;
        return Err(nothing_fits(job, choice, cluster, 1));
    };
    let layout = layout(job, micro_batch, cluster)?;
    let memory = Parts::of(job, choice, micro_batch, layout.gradient_buffers, cluster.world());
    if memory.total() > cluster.gpu.memory() {
        return Err(nothing_fits(job, choice, cluster, micro_batch));
    }

    let peaks = cluster.gpu.peaks()?;
    let of = |layout, choice, world| roofline::compute(job, choice, layout, cluster.gpu, &peaks, cluster.shares, world);
    let compute = of(layout, choice, cluster.world());
    let traffic = network::traffic(job, choice, cluster, compute.micro_batch_seconds);
    let step_seconds = compute.seconds + traffic.exposed;
    // The same micro-batches in the same lanes, one after the other.
    let alone = Layout { micro_batches: layout.micro_batches * cluster.world(), ..layout };
    let alone = of(alone, Choice { shard_optimizer: false, ..choice }, 1).seconds;
    let tokens = (job.global_batch * job.shape.context_length) as f64;
    let tokens_per_second = tokens / step_seconds;
    let world = cluster.world() as f64;
    let peak = roofline::peak(&peaks, job.precision);
    Ok(Plan {
        choice,
        layout,
        largest_micro_batch: largest,
        memory,
        compute,
        traffic,
        step_seconds,
        tokens_per_second,
        mfu: tokens_per_second * job.shape.flops_per_token() as f64 / (world * peak),
        scaling_efficiency: alone / (step_seconds * world),
        hours: job.steps.map(|steps| steps as f64 * step_seconds / 3600.0),
    })
}

/// Checks that the cluster can share the batch out.
fn check(job: &Job, cluster: &Cluster) -> Result<()> {
    let world = cluster.world();
    let shape = job.shape;
    let [c, m, l, t, v] =
        [shape.n_embd, shape.mlp_dim, shape.n_layer, shape.context_length, shape.vocab_size].map(|size| size as f64);
    let widths = l * (shape.qkv_dim() as f64 + 8.0 * c + 4.0 * m) + 2.0 * v;
    let at_once = job.micro_batch.unwrap_or(LARGEST.min(job.global_batch)) as f64;
    if c * (widths + t) > BEYOND || t * at_once * widths > BEYOND {
        return Err(Error::usage(
            "the model, or its context_length times the micro-batch, is beyond what this can plan for; look for a digit \
             too many in [model] and [train]",
        ));
    }
    if !cluster.gpus.is_power_of_two() || !cluster.nodes.is_power_of_two() {
        return Err(Error::usage(format!(
            "{} GPUs in {} machine(s): the ordered reduction takes powers of two (1, 2, 4, 8 ...) of both; change --gpus \
             or --nodes",
            cluster.gpus, cluster.nodes
        )));
    }
    if !job.global_batch.is_multiple_of(world) {
        return Err(Error::usage(format!(
            "train.global_batch = {} sequences cannot be shared equally by {world} GPUs; take a multiple of {world}",
            job.global_batch
        )));
    }
    Ok(())
}

/// How the batch is cut for this micro-batch.
fn layout(job: &Job, micro_batch: usize, cluster: &Cluster) -> Result<Layout> {
    let (global, world) = (job.global_batch, cluster.world());
    let of_one = global / world;
    if micro_batch == 0 || !of_one.is_multiple_of(micro_batch) {
        return Err(Error::usage(format!(
            "train.micro_batch = {micro_batch} does not divide the {of_one} sequences that each of {world} GPUs has of \
             train.global_batch = {global}; take {} or \"auto\"",
            (1..=of_one.min(micro_batch)).rev().find(|size| of_one.is_multiple_of(*size)).unwrap_or(1)
        )));
    }
    let count = global / micro_batch;
    // Each GPU has a lane at least.
    let lanes = job.lanes.unwrap_or_else(|| lanes::default_lanes(count).max(world));
    if !lanes.is_power_of_two() || !lanes.is_multiple_of(world) || !count.is_multiple_of(lanes) {
        return Err(Error::usage(format!(
            "dist.lanes = {lanes} does not go with {world} GPUs and {count} micro-batches: it is a power of two, a multiple \
             of the first and a divisor of the second"
        )));
    }
    Ok(Layout {
        micro_batch,
        micro_batches: of_one / micro_batch,
        lanes,
        gradient_buffers: lanes::buffers(lanes / world),
    })
}

/// The largest micro-batch for which a step takes no more than the share of the memory that training plans with.
fn largest_that_fits(job: &Job, choice: Choice, cluster: &Cluster) -> Option<usize> {
    let of_one = job.global_batch / cluster.world();
    (1..=of_one.min(LARGEST)).rev().filter(|size| of_one.is_multiple_of(*size)).find(|size| {
        layout(job, *size, cluster).is_ok_and(|layout| {
            let parts = Parts::of(job, choice, *size, layout.gradient_buffers, cluster.world());
            let room = cluster.gpu.memory().saturating_sub(parts.workspace) as f64 * SHARE;
            (parts.total() - parts.workspace) as f64 <= room
        })
    })
}

/// The refusal of a micro-batch that does not fit, with what would.
fn nothing_fits(job: &Job, choice: Choice, cluster: &Cluster, micro_batch: usize) -> Error {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let buffers = layout(job, micro_batch, cluster).map_or(1, |layout| layout.gradient_buffers);
    let need = Parts::of(job, choice, micro_batch, buffers, cluster.world()).total();
    let mut ways = Vec::new();
    if let Some(size) = largest_that_fits(job, choice, cluster).filter(|size| *size < micro_batch) {
        ways.push(format!("train.micro_batch = {size}"));
    }
    let recomputing = Choice { recompute: true, ..choice };
    let sharding = Choice { shard_optimizer: cluster.world() > 1, ..choice };
    let both = Choice { recompute: true, ..sharding };
    let tries = [
        (recomputing, "train.recompute = true"),
        (sharding, "a sharded optimizer (--shard-optimizer)"),
        (both, "train.recompute = true with a sharded optimizer (--shard-optimizer)"),
    ];
    let fits = |choice: Choice, cluster: &Cluster| largest_that_fits(job, choice, cluster);
    if let Some((size, how)) =
        tries.iter().filter(|(t, _)| *t != choice).find_map(|(t, how)| fits(*t, cluster).map(|s| (s, how)))
    {
        ways.push(format!("{how}, which leaves room for micro-batches of {size}"));
    }
    let larger = gpus::TABLE.iter().filter(|gpu| gpu.memory() > cluster.gpu.memory());
    let larger = larger.filter(|gpu| fits(choice, &Cluster { gpu, ..cluster.clone() }).is_some());
    if let Some(gpu) = larger.min_by_key(|gpu| gpu.memory()) {
        ways.push(format!("a GPU with more memory, such as {}", gpu.name));
    }
    if ways.is_empty() {
        ways.push("a smaller model or context_length".into());
    }
    Error::usage(format!(
        "a step of {micro_batch} sequence(s) at once needs about {:.1} GiB on each of {}, which has {:.1} GiB; try {}",
        gib(need),
        cluster.words(),
        cluster.gpu.memory_gib,
        ways.join("; or ")
    ))
}

/// The plans for every choice, with the largest micro-batch each: what recomputation and a sharded optimizer would change.
pub fn alternatives(job: &Job, cluster: &Cluster) -> Vec<(Choice, Option<Plan>)> {
    let job = Job { micro_batch: None, ..job.clone() };
    let sharded: &[bool] = if cluster.world() > 1 { &[false, true] } else { &[false] };
    let choices = sharded
        .iter()
        .flat_map(|&shard_optimizer| [false, true].map(|recompute| Choice { recompute, shard_optimizer }));
    choices.map(|choice| (choice, plan(&job, choice, cluster).ok())).collect()
}

impl Plan {
    /// What the numbers rest on, in sentences.
    pub fn assumptions(&self, job: &Job, cluster: &Cluster) -> Vec<String> {
        let percent = |share: f64| format!("{:.0}%", 100.0 * share);
        let (gpu, shares) = (cluster.gpu, cluster.shares);
        let name = job.precision.name();
        let mut list = vec![
            format!(
                "matrix products reach {} of the {name} peak, attention {}, other kernels {} of {:.3} TB/s; groups follow \
                 each other, and each is bound by its operations or its bytes",
                percent(shares.gemm),
                percent(shares.attention),
                percent(shares.bandwidth),
                gpu.bandwidth / 1e12
            ),
            format!(
                "a kernel takes {:.0} us at least; dropout, validation, checkpoints and reading data cost nothing",
                roofline::LAUNCH * 1e6
            ),
            format!(
                "memory: the model of taper train, {} MiB for context and workspace; \"auto\" plans with {} of the rest",
                memory::CONTEXT >> 20,
                percent(SHARE)
            ),
        ];
        if cluster.world() > 1 {
            let link = match gpu.link {
                Link::Nvlink => "NVLink",
                Link::Pcie => "PCIe",
            };
            list.push(format!(
                "gradients travel in fp32, reduce-scatter and all-gather in a fixed order ({:.2} times a ring); {link} at \
                 {:.0} GB/s a GPU, alpha {:.0} us for each doubling; {} MiB for NCCL",
                network::ORDERED,
                network::link_rate(gpu) / 1e9,
                network::ALPHA_LINK * 1e6,
                memory::NCCL >> 20
            ));
            list.push(
                "blocks' buckets travel while the last micro-batch goes backward, and slow it in nothing; embeddings travel after it".into(),
            );
        }
        if cluster.nodes > 1 {
            list.push(format!(
                "the network carries {} of {} Gbit/s from each machine, alpha {:.0} us for each doubling",
                percent(network::NETWORK_SHARE),
                cluster.network_gbit,
                network::ALPHA_NETWORK * 1e6
            ));
        }
        list
    }
}
