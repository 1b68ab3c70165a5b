//! What `taper bench` is asked to measure: its arguments, the built-in shapes, and the workload that they come to.

use std::path::PathBuf;

use crate::arch::ModelConfig;
use crate::config::Config;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokenizer::config::TokenizerKind;
use crate::error::{Error, Result};
use crate::optim::Hyper;
use crate::train::config::Precision;

/// Arguments of `taper bench tune`.
#[derive(Debug, clap::Args)]
pub struct Tune {
    #[command(flatten)]
    pub(crate) step: Step,
    /// The file to write.
    #[arg(long, value_name = "FILE", default_value = "matmul.json")]
    pub(crate) out: PathBuf,
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
    pub(crate) steps: u32,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: String,
    /// fp32, tf32, bf16 or fp16 [default: bf16 on a GPU, fp32 on the CPU].
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub(crate) precision: Option<Precision>,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `taper bench ops`.
#[derive(Debug, clap::Args)]
pub struct Ops {
    /// A built-in shape, on the CPU [default: 124m].
    #[arg(long, value_enum)]
    pub(crate) shape: Option<Shape>,
    /// fp32 or bf16, on the CPU [default: fp32].
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub(crate) precision: Option<Precision>,
    /// Milliseconds for each operator, on the CPU; each is run four times at least.
    #[arg(long, value_name = "MS", default_value_t = 400)]
    pub(crate) patience: u64,
    /// Steps that are timed, on the CPU.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: u32,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: String,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The built-in shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shape {
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
    pub(crate) fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map(|value| value.get_name().to_string()).unwrap_or_default()
    }

    /// The model, and the sequences of a micro-batch.
    pub(crate) fn model(self) -> (ModelConfig, usize) {
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
pub(crate) struct Workload {
    pub name: String,
    pub model: ModelConfig,
    pub batch: usize,
    pub recompute: bool,
    pub hyper: Hyper,
    pub lr: f64,
}

/// A built-in shape, with its own number of sequences or another.
pub(crate) fn built_in(shape: Shape, batch: Option<u32>) -> Workload {
    let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
    let (model, sequences) = shape.model();
    let batch = batch.map_or(sequences, |batch| batch as usize);
    Workload { name: shape.name(), model, batch, recompute: false, hyper, lr: 1e-4 }
}

pub(crate) fn workload(args: &Step) -> Result<Workload> {
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
    Ok(Workload { name: path.display().to_string(), model, batch, recompute, hyper, lr })
}
