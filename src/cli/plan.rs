//! `taper plan`: what a run would take on GPUs that are not at hand.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::model::resolve_shape;
use crate::cli::ui::{print_json, print_line};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::optim::rule;
use crate::plan::gpus::{self, Link};
use crate::plan::{Choice, Cluster, Job, Plan, alternatives, plan};
use crate::run::summary::{count, duration};

/// Arguments of `taper plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper plan configs/gpt2_124m.toml --gpus 8 --gpu a100-80
  taper plan configs/gpt2_1558m.toml --gpus 8 --gpu h100 --nodes 4 --network 3200 --price-per-hour 28
  taper plan configs/gpt2_774m.toml --gpus 8 --gpu a100-40 --set train.recompute=true --json

Every number is a prediction; docs/plan.md says how it is made and how far it was from published runs. GPUs: a100-40,
a100-80, a100-40-pcie, a100-80-pcie, h100, h100-pcie, h200, b200, l4, l40s, a10, a30, a40, rtx4090, rtx3090.")]
pub struct Args {
    /// The config file.
    config: PathBuf,
    /// The kind of GPU.
    #[arg(long, value_name = "NAME", default_value = "a100-80")]
    gpu: String,
    /// GPUs of one machine.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    gpus: u32,
    /// Machines.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    nodes: u32,
    /// The network of one machine, in Gbit/s.
    #[arg(long, value_name = "GBIT", default_value_t = 400.0, allow_negative_numbers = true)]
    network: f64,
    /// Plan with the optimizer's state shared out over the GPUs (ZeRO stage 1).
    #[arg(long)]
    shard_optimizer: bool,
    /// Price of one machine, in any currency: the plan then says what the run costs.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    price_per_hour: Option<f64>,
    /// The share of the peak that matrix products reach, where it is better known than by the table (0 to 1).
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    gemm_share: Option<f64>,
    /// Change a key of the config, such as train.recompute=true.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Runs `taper plan`.
///
/// # Errors
/// `Usage`: a config that is wrong, an unknown GPU, or a step that does not fit.
pub fn run(args: &Args) -> Result<()> {
    if args.price_per_hour.is_some_and(|price| !(price.is_finite() && price >= 0.0)) {
        return Err(Error::usage("--price-per-hour must be a number of at least 0"));
    }
    if !(args.network.is_finite() && args.network > 0.0) {
        return Err(Error::usage("--network must be a number above 0, in Gbit/s"));
    }
    let gpu = gpus::find(&args.gpu)?;
    let mut shares = gpu.shares;
    if let Some(share) = args.gemm_share {
        if !(share > 0.0 && share <= 1.0) {
            return Err(Error::usage(format!("--gemm-share {share} must be above 0 and at most 1")));
        }
        shares.gemm = share;
    }
    let mut config = Config::load(&args.config, &args.set)?;
    let shape = resolve_shape(&mut config)?;
    let train = &config.train;
    let job = Job {
        shape: &shape,
        global_batch: train.global_batch(),
        micro_batch: train.micro_batch.sequences(),
        lanes: config.dist.lanes,
        precision: config.precision.resolve(true)?,
        state_bytes: rule::state_bytes(&config.optimizer),
        // How many steps an epoch has, only the data says.
        steps: if train.epochs.is_some() { None } else { Some(train.steps(shape.context_length, 0)?) },
    };
    let (gpus, nodes) = (args.gpus as usize, args.nodes as usize);
    let cluster = Cluster { gpu, gpus, nodes, network_gbit: args.network, shares };
    let shard_optimizer = args.shard_optimizer || config.dist.shard_optimizer;
    let plan = plan(&job, Choice { recompute: train.recompute, shard_optimizer }, &cluster)?;
    let others = alternatives(&job, &cluster);
    // Of all machines.
    let cost = args.price_per_hour.zip(plan.hours).map(|(price, hours)| price * hours * nodes as f64);
    if args.json {
        return print_json(&as_json(&job, &cluster, &plan, &others, cost)?);
    }
    let mut lines = head(args, &job, &cluster, &plan);
    lines.extend(memory(&plan, &cluster));
    lines.extend(step(&job, &plan, &cluster)?);
    lines.extend(run_words(&job, &plan, args, cost));
    lines.extend(table(&others));
    lines.push("\nassumptions (docs/plan.md)".into());
    lines.extend(plan.assumptions(&job, &cluster).into_iter().map(|line| format!("  - {line}")));
    print_line(&lines.join("\n"))
}

fn head(args: &Args, job: &Job, cluster: &Cluster, plan: &Plan) -> Vec<String> {
    let layout = plan.layout;
    let machines = if cluster.nodes > 1 { format!("{} machines of ", cluster.nodes) } else { String::new() };
    vec![
        format!(
            "{} on {machines}{} x {}: predictions, nothing was measured",
            args.config.display(),
            cluster.gpus,
            cluster.gpu.name
        ),
        format!(
            "model       {} parameters, {} FLOPs a token (6 a weight, 12 L H D T), {}",
            count(job.parameters() as f64),
            count(job.shape.flops_per_token() as f64),
            job.precision.name()
        ),
        format!(
            "batch       {} tokens a step: {} sequences; each GPU {} micro-batch(es) of {}; {} lanes, {} gradient buffer(s)",
            job.global_batch * job.shape.context_length,
            job.global_batch,
            layout.micro_batches,
            layout.micro_batch,
            layout.lanes,
            layout.gradient_buffers
        ),
    ]
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

fn memory(plan: &Plan, cluster: &Cluster) -> Vec<String> {
    let total = plan.memory.total();
    let room = cluster.gpu.memory();
    let mut lines = vec![format!(
        "\nmemory      {:.1} of {:.1} GiB on each GPU; \"auto\" would take micro-batches of {}",
        gib(total),
        gib(room),
        plan.largest_micro_batch.map_or("nothing: one is too large already".into(), |size| size.to_string())
    )];
    lines.extend(
        plan.memory
            .named()
            .iter()
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(name, bytes)| format!("  {name:<28}{:>9.2} GiB", gib(*bytes))),
    );
    lines
}

fn step(job: &Job, plan: &Plan, cluster: &Cluster) -> Result<Vec<String>> {
    let ms = |seconds: f64| format!("{:>9.2} ms", 1e3 * seconds);
    let mut lines = vec![format!("\nstep        {:.1} ms", 1e3 * plan.step_seconds)];
    for group in &plan.compute.groups {
        let rate = match group.flops {
            0.0 => format!("{:.2} TB/s", group.bytes / group.seconds / 1e12),
            flops => format!("{:.0} TFLOP/s", flops / group.seconds / 1e12),
        };
        lines.push(format!("  {:<28}{}   {rate}", group.name, ms(group.seconds)));
    }
    if plan.compute.launch_seconds > 0.0 {
        lines.push(format!("  {:<28}{}", "starting short kernels", ms(plan.compute.launch_seconds)));
    }
    let traffic = plan.traffic;
    if cluster.world() > 1 {
        lines.push(format!(
            "  {:<28}{}   of {:.2} ms, the rest hidden; each GPU sends {:.0} MB",
            "communication, exposed",
            ms(traffic.exposed),
            1e3 * traffic.seconds,
            traffic.bytes / 1e6
        ));
    }
    let peak = crate::plan::roofline::peak(&cluster.gpu.peaks()?, job.precision);
    lines.push(format!("\nspeed       {} tokens/s", count(plan.tokens_per_second.round())));
    lines.push(format!(
        "mfu         {:.1}% = {} tokens/s x {} FLOPs a token / ({} x {:.1} TFLOP/s)",
        100.0 * plan.mfu,
        count(plan.tokens_per_second.round()),
        count(job.shape.flops_per_token() as f64),
        cluster.world(),
        peak / 1e12
    ));
    if cluster.world() > 1 {
        let link = if cluster.gpu.link == Link::Nvlink { "NVLink" } else { "PCIe" };
        lines.push(format!(
            "scaling     {:.1}% of {} times one GPU ({link}{})",
            100.0 * plan.scaling_efficiency,
            cluster.world(),
            if cluster.nodes > 1 {
                format!(", {} Gbit/s between machines", cluster.network_gbit)
            } else {
                String::new()
            }
        ));
    }
    Ok(lines)
}

fn run_words(job: &Job, plan: &Plan, args: &Args, cost: Option<f64>) -> Vec<String> {
    let Some((steps, hours)) = job.steps.zip(plan.hours) else {
        return vec![
            "time        depends on the data (train.epochs); try --set train.max_tokens=N in its place".into(),
        ];
    };
    let tokens = steps as f64 * (job.global_batch * job.shape.context_length) as f64;
    let mut lines =
        vec![format!("time        {} for {steps} steps, {} tokens", duration(3600.0 * hours), count(tokens))];
    if let (Some(cost), Some(price)) = (cost, args.price_per_hour) {
        lines.push(format!("cost        {cost:.2} = {hours:.2} h x {} machine(s) x {price}", args.nodes));
    }
    lines
}

fn words(choice: Choice) -> &'static str {
    match (choice.recompute, choice.shard_optimizer) {
        (false, false) => "kept",
        (true, false) => "recomputed",
        (false, true) => "kept, sharded optimizer",
        (true, true) => "recomputed, sharded optimizer",
    }
}

fn table(others: &[(Choice, Option<Plan>)]) -> Vec<String> {
    let mut lines =
        vec![format!("\n{:<32}{:>12}{:>10}{:>11}{:>13}", "activations", "micro-batch", "GiB", "step ms", "tokens/s")];
    lines.extend(others.iter().map(|(choice, plan)| match plan {
        None => format!("  {:<30}{:>12}", words(*choice), "does not fit"),
        Some(plan) => format!(
            "  {:<30}{:>12}{:>10.1}{:>11.1}{:>13}",
            words(*choice),
            plan.layout.micro_batch,
            gib(plan.memory.total()),
            1e3 * plan.step_seconds,
            count(plan.tokens_per_second.round())
        ),
    }));
    lines
}

fn as_json(
    job: &Job,
    cluster: &Cluster,
    plan: &Plan,
    others: &[(Choice, Option<Plan>)],
    cost: Option<f64>,
) -> Result<serde_json::Value> {
    let others: Vec<_> = others
        .iter()
        .map(|(choice, plan)| {
            json!({
                "recompute": choice.recompute,
                "shard_optimizer": choice.shard_optimizer,
                "micro_batch": plan.as_ref().map(|plan| plan.layout.micro_batch),
                "memory_bytes": plan.as_ref().map(|plan| plan.memory.total()),
                "step_seconds": plan.as_ref().map(|plan| plan.step_seconds),
                "tokens_per_second": plan.as_ref().map(|plan| plan.tokens_per_second),
            })
        })
        .collect();
    let steps = job.steps;
    Ok(json!({
        "prediction": true,
        "gpu": cluster.gpu,
        "gpus": cluster.gpus,
        "nodes": cluster.nodes,
        "network_gbit": cluster.network_gbit,
        "shares": cluster.shares,
        "parameters": job.parameters(),
        "flops_per_token": job.shape.flops_per_token(),
        "precision": job.precision.name(),
        "tokens_per_step": job.global_batch * job.shape.context_length,
        "steps": steps,
        "tokens": steps.map(|steps| steps as f64 * (job.global_batch * job.shape.context_length) as f64),
        "memory_bytes": plan.memory.total(),
        "plan": plan,
        "cost": cost,
        "alternatives": others,
        "assumptions": plan.assumptions(job, cluster),
    }))
}
