//! `taper bench`: how fast this machine trains, measured on random tokens.
//!
//! A step is what training does: forward, backward, gradient norm, clipping, AdamW. The median of some steps counts, after
//! warm-up; memory is what the process had resident at most, so measure one shape in one process to compare it.

use std::path::PathBuf;

use super::{bench_ops, bench_sample, bench_step, bench_tune};
use crate::arch::ModelConfig;
use crate::config::Config;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokenizer::config::TokenizerKind;
use crate::error::{Error, Result};
use crate::optim::Hyper;
use crate::train::config::Precision;

/// Subcommands of `taper bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Time training steps: tokens per second, FLOP/s, memory.
    #[command(after_help = "\
Examples:
  taper bench step --shape 10m
  taper bench step --config configs/quickstart.toml --json
  RAYON_NUM_THREADS=1 taper bench step --shape 10m --json
  taper bench step --shape 124m --batch 16 --device cuda --precision bf16

scripts/bench_torch.py times the same shapes in PyTorch, alternating with this command.")]
    Step(Step),
    /// Time every operator of a training step beside its floor, and the step beside their sum.
    #[command(after_help = "\
Examples:
  taper bench ops
  taper bench ops --shape 10m --precision bf16 --json

docs/performance.md says what is counted.")]
    Ops(Ops),
    /// Choose matrix product algorithms on a GPU by measurement, for the shapes of a model's training step.
    #[command(after_help = "\
Examples:
  taper bench tune --config configs/gpt2_124m.toml --batch 16 --out matmul.json
  taper train configs/gpt2_124m.toml --set train.micro_batch=16 --set precision.matmul_table=matmul.json

The table holds for this kind of GPU and these library versions, and for one micro-batch size.")]
    Tune(Tune),
    /// Time the generation of text on the CPU: prefill, tokens per second alone and in batches, share of the bandwidth.
    #[command(after_help = "\
Examples:
  taper bench sample
  taper bench sample --shape 124m --dtype q8_0 --cache-dtype int8 --json

scripts/bench_decode.py runs llama.cpp and transformers beside this command.")]
    Sample(bench_sample::Sample),
}

/// Arguments of `taper bench tune`.
#[derive(Debug, clap::Args)]
pub struct Tune {
    #[command(flatten)]
    pub(super) step: Step,
    /// The file to write.
    #[arg(long, value_name = "FILE", default_value = "matmul.json")]
    pub(super) out: PathBuf,
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
    /// Sequences of a micro-batch, instead of the shape's.
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Steps that are timed, at least 5; two more before them are not.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(5..))]
    pub(super) steps: u32,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(super) device: String,
    /// fp32, tf32, bf16 or fp16 [default: bf16 on a GPU, fp32 on the CPU].
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub(super) precision: Option<Precision>,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `taper bench ops`.
#[derive(Debug, clap::Args)]
pub struct Ops {
    /// A built-in shape, on the CPU [default: 124m].
    #[arg(long, value_enum)]
    pub(super) shape: Option<Shape>,
    /// fp32 or bf16, on the CPU [default: fp32].
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub(super) precision: Option<Precision>,
    /// Milliseconds for each operator, on the CPU; each is run four times at least.
    #[arg(long, value_name = "MS", default_value_t = 400)]
    pub(super) patience: u64,
    /// Steps that are timed, on the CPU.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) steps: u32,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(super) device: String,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    pub(super) json: bool,
}

/// The built-in shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shape {
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
    /// As the command line writes it.
    pub(super) fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map(|value| value.get_name().to_string()).unwrap_or_default()
    }

    /// The model, and the sequences of a micro-batch.
    pub(super) fn model(self) -> (ModelConfig, usize) {
        let gpt2 = ModelConfig::gpt2(12, 12, 768, 1024, 50_257);
        let small = |vocab_size| ModelConfig::gpt2(6, 6, 384, 256, vocab_size);
        match self {
            Shape::Small => (small(65), 8),
            Shape::SmallGpt2Vocabulary => (small(50_257), 8),
            Shape::Gpt2 => (gpt2, 1),
        }
    }
}

/// What is timed.
pub(super) struct Job {
    pub name: String,
    pub model: ModelConfig,
    pub batch: usize,
    pub recompute: bool,
    pub hyper: Hyper,
    pub lr: f64,
}

/// Runs `taper bench`.
///
/// # Errors
/// If the config cannot be read, or memory cannot be had.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Step(args) => bench_step::run(&args, job(&args)?),
        Command::Ops(args) => bench_ops::run(&args, built_in(args.shape.unwrap_or(Shape::Gpt2), None)),
        Command::Tune(args) => bench_tune::run(&args, job(&args.step)?),
        Command::Sample(args) => bench_sample::run(&args),
    }
}

/// A built-in shape, with its own number of sequences or another.
fn built_in(shape: Shape, batch: Option<u32>) -> Job {
    let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
    let (model, sequences) = shape.model();
    let batch = batch.map_or(sequences, |batch| batch as usize);
    Job { name: shape.name(), model, batch, recompute: false, hyper, lr: 1e-4 }
}

fn job(args: &Step) -> Result<Job> {
    let Some(path) = &args.config else { return Ok(built_in(args.shape, args.batch)) };
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
    let hyper = Hyper { optimizer: config.optimizer, clip_norm: config.stability.clip_norm.value() };
    let (lr, recompute) = (config.optimizer.lr, config.train.recompute);
    let batch = args.batch.map(|batch| batch as usize).or(config.train.micro_batch.sequences()).ok_or_else(|| {
        Error::usage("train.micro_batch = \"auto\" depends on the machine; say how many sequences: --batch 8")
    })?;
    let model = config.resolve_model(vocab_size, None)?;
    Ok(Job { name: path.display().to_string(), model, batch, recompute, hyper, lr })
}
