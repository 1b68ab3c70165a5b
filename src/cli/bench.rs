//! `taper bench`: how fast this machine trains, measured on random tokens.
//!
//! A step is what training does: forward, backward, gradient norm, clipping, AdamW. The median of some steps counts, after
//! warm-up; memory is what the process had resident at most, so measure one shape in one process to compare it.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::{bench_ops, print_json, print_line};
use crate::config::Config;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokenizer::config::TokenizerKind;
use crate::device::info::peak_resident_bytes;
use crate::device::pool;
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::model::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use crate::model::gpt::Pass;
use crate::nn::Dropout;
use crate::optim::optimizer::{Hyper, Optimizer};
use crate::random::{Purpose, uniform};
use crate::tape::{Gradients, Tape};
use crate::tensor::Tensor;

/// Subcommands of `taper bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Time training steps: tokens per second, FLOP/s, memory.
    #[command(after_help = "\
Examples:
  taper bench step --shape 10m
  taper bench step --config configs/quickstart.toml --json
  RAYON_NUM_THREADS=1 taper bench step --shape 10m --json

scripts/bench_torch.py times the same shapes in PyTorch, alternating with this command.")]
    Step(Step),
    /// Time single operators: bytes or floating-point operations per second.
    #[command(after_help = "Example:\n  taper bench ops --json")]
    Ops(Ops),
}

/// Arguments of `taper bench step`.
#[derive(Debug, clap::Args)]
pub struct Step {
    /// A built-in shape.
    #[arg(long, value_enum, default_value_t = Shape::Small, conflicts_with = "config")]
    shape: Shape,
    /// The model, micro-batch and optimizer of this config instead.
    #[arg(long, value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    /// Change a key of the config.
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Steps that are timed, at least 5; two more before them are not.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(5..))]
    steps: u32,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Arguments of `taper bench ops`.
#[derive(Debug, clap::Args)]
pub struct Ops {
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    pub(super) json: bool,
}

/// The built-in shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Shape {
    /// 6 layers, 384 channels, T=256, B=8, V=65.
    #[value(name = "10m")]
    Small,
    /// The same with V=50257.
    #[value(name = "10m-v50257")]
    SmallGpt2Vocabulary,
    /// GPT-2 small: 12 layers, 768 channels, T=1024, B=1, V=50257.
    #[value(name = "124m")]
    Gpt2,
}

impl Shape {
    fn model(self) -> (ModelConfig, usize) {
        let gpt2 = ModelConfig {
            n_layer: 12,
            n_head: 12,
            n_kv_head: 12,
            head_dim: 64,
            n_embd: 768,
            mlp_dim: 3072,
            context_length: 1024,
            vocab_size: 50_257,
            norm: Norm::Layernorm,
            norm_position: NormPosition::Pre,
            norm_eps: 1e-5,
            position: Position::Learned,
            rope_theta: 1e4,
            mlp: Mlp::Gelu,
            qkv_bias: true,
            bias: true,
            tie_embeddings: true,
            dropout: 0.0,
        };
        let small = |vocab_size| ModelConfig {
            n_layer: 6,
            n_head: 6,
            n_kv_head: 6,
            n_embd: 384,
            mlp_dim: 1536,
            context_length: 256,
            vocab_size,
            ..gpt2.clone()
        };
        match self {
            Shape::Small => (small(65), 8),
            Shape::SmallGpt2Vocabulary => (small(50_257), 8),
            Shape::Gpt2 => (gpt2, 1),
        }
    }
}

/// What is timed.
struct Job {
    name: String,
    model: ModelConfig,
    batch: usize,
    recompute: bool,
    hyper: Hyper,
    lr: f64,
}

/// Runs `taper bench`.
///
/// # Errors
/// If the config cannot be read, or memory cannot be had.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Step(args) => step(&args),
        Command::Ops(args) => bench_ops::run(&args),
    }
}

fn job(args: &Step) -> Result<Job> {
    let hyper = Hyper { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip_norm: Some(1.0) };
    let Some(path) = &args.config else {
        let (model, batch) = args.shape.model();
        let name = clap::ValueEnum::to_possible_value(&args.shape).map(|value| value.get_name().to_string());
        return Ok(Job { name: name.unwrap_or_default(), model, batch, recompute: false, hyper, lr: 1e-4 });
    };
    let mut config = Config::load(path, &args.set)?;
    let vocab_size = match config.tokenizer.kind() {
        TokenizerKind::Gpt2 => Tokenizer::gpt2()?.vocab_size(),
        TokenizerKind::Bytes => Tokenizer::bytes().vocab_size(),
        TokenizerKind::Train => config.tokenizer.vocab_size(),
        TokenizerKind::File => match config.tokenizer.path.as_deref() {
            Some(path) => Tokenizer::from_name_or_path(path)?.vocab_size(),
            None => 1,
        },
        TokenizerKind::Chars => 1,
    };
    if config.tokenizer.kind() == TokenizerKind::Chars && config.model.vocab_size.is_none() {
        return Err(Error::usage(
            "how many characters the text has is not known here; add --set model.vocab_size=65 (as tiny Shakespeare has)",
        ));
    }
    let optimizer = &config.optimizer;
    let hyper = Hyper {
        beta1: optimizer.beta1,
        beta2: optimizer.beta2,
        eps: optimizer.eps,
        weight_decay: optimizer.weight_decay,
        clip_norm: config.stability.clip_norm.value(),
    };
    let (lr, recompute) = (optimizer.lr, config.train.recompute);
    let batch = config.train.micro_batch.sequences().ok_or_else(|| {
        Error::usage(
            "train.micro_batch = \"auto\" depends on the machine; say how many sequences: --set train.micro_batch=8",
        )
    })?;
    let model = config.resolve_model(vocab_size, None)?;
    Ok(Job { name: path.display().to_string(), model, batch, recompute, hyper, lr })
}

fn step(args: &Step) -> Result<()> {
    let job = job(args)?;
    let (b, t, v) = (job.batch, job.model.context_length, job.model.vocab_size);
    let flops_per_token = job.model.flops_per_token();
    let dropout = (job.model.dropout > 0.0).then(|| Dropout {
        seed: 1,
        step: 0,
        probability: job.model.dropout,
        sequences: (0..b as u32).collect(),
    });
    let model = Gpt::new(job.model)?;
    let mut params = model.initialise(1)?;
    let mut grads = Gradients::zeros_like(&params)?;
    let mut optimizer = Optimizer::new(job.hyper, &params)?;
    let ids: Vec<u32> = (0..b * t + 1).map(|i| (uniform(1, Purpose::Test, 0, i as u64) * v as f64) as u32).collect();
    let tokens = Tensor::from_u32(&ids[..b * t], &[b, t])?;
    let pass = Pass { dropout, recompute: job.recompute, loss_scale: None };
    pool::reset_peak();
    const WARM_UP: usize = 2;
    let mut times = Vec::new();
    let mut loss = 0.0;
    for round in 0..WARM_UP + args.steps as usize {
        let began = Instant::now();
        grads.clear()?;
        let mut tape = Tape::training(&params, &mut grads);
        let found = model.loss(&mut tape, &tokens, &ids[1..], 1.0 / (b * t) as f32, &pass)?;
        loss = found.sum()? / (b * t) as f64;
        tape.backward(&found.root, Tensor::from_f32(&[1.0], &[1])?)?;
        optimizer.step(&mut params, &grads, loss, job.lr);
        if round >= WARM_UP {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    let (median, best) = (times[times.len() / 2], times[0]);
    let tokens_per_s = (b * t) as f64 / median;
    let flops = tokens_per_s * flops_per_token as f64;
    let mib = |bytes: u64| bytes as f64 / f64::from(1u32 << 20);
    let (resident, pooled) = (mib(peak_resident_bytes()), mib(pool::peak_bytes() as u64));
    let (parameters, threads) = (model.layout().parameters(), rayon::current_num_threads());
    if args.json {
        return print_json(&json!({
            "shape": job.name,
            "parameters": parameters,
            "batch": b,
            "context_length": t,
            "vocab_size": v,
            "threads": threads,
            "steps": times.len(),
            "step_ms": median * 1e3,
            "step_ms_best": best * 1e3,
            "tokens_per_s": tokens_per_s,
            "tokens_per_s_best": (b * t) as f64 / best,
            "flops_per_s": flops,
            "peak_resident_mib": resident,
            "peak_pool_mib": pooled,
            "loss": loss,
        }));
    }
    print_line(&format!("{}: {parameters} parameters, B={b}, T={t}, V={v}, {threads} threads", job.name))?;
    print_line(&format!("step       {:.1} ms (median of {}), best {:.1} ms", median * 1e3, times.len(), best * 1e3))?;
    print_line(&format!("tokens/s   {tokens_per_s:.0}"))?;
    print_line(&format!("GFLOP/s    {:.1}", flops / 1e9))?;
    print_line(&format!("memory     {resident:.0} MiB resident at most, {pooled:.0} MiB of them in tensors"))
}
