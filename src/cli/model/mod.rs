//! `taper model`: what a model is, how a new one begins, and (in `convert`) how it goes elsewhere.

mod convert;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::arch::ModelConfig;
use crate::checkpoint::{FolderKind, write_model_folder};
use crate::cli::model::convert::appear;
use crate::cli::ui::{Terminal, grouped, note, print_json, print_line, say};
use crate::config::Config;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokenizer::config::TokenizerKind;
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::open::{locate, read};
use crate::run::source;

/// Subcommands of `taper model`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say what a model is: shape, parameters, cost, and whether transformers loads it.
    #[command(after_help = "\
Examples:
  taper model info configs/gpt2_124m.toml
  taper model info runs/quickstart --json")]
    Info(Info),
    /// Write the initial model that a config describes, as a model folder.
    #[command(after_help = "\
Examples:
  taper model init configs/shakespeare_char.toml --out models/start
  taper model init configs/quickstart.toml --set tokenizer.kind=bytes --out models/start

The weights are those that training the config starts from: a function of run.seed_init and of
the parameters' names.")]
    Init(InitArgs),
    /// Write a model for other programs: a GGUF file for llama.cpp, or a folder for transformers.
    #[command(after_help = "\
Examples:
  taper model export runs/quickstart --format gguf --out quickstart.gguf --dtype f16
  taper model export runs/quickstart --format hf --out models/quickstart --dtype bf16
  taper model export runs/chat_finetune --merge --format hf --out models/chat

GGUF takes models of GPT-2's and Llama's shape (`taper model info` says which a model has) with a byte-level BPE tokenizer \
that splits as GPT-2's does, or as SmolLM's, and the tokenizer of bytes. For others: --no-tokenizer.")]
    Export(convert::ExportArgs),
    /// Write a model folder anew: another dtype, shards, a smaller vocabulary, other biases; or from an llm.c file.
    #[command(after_help = "\
Examples:
  taper model convert runs/quickstart --out models/small --dtype bf16
  taper model convert gpt2_124M.bin --out models/gpt2 --shard-size 200MB")]
    Convert(convert::ConvertArgs),
}

/// Arguments of `taper model info`.
#[derive(Debug, clap::Args)]
pub struct Info {
    /// A model folder, a run folder, or a config file (.toml).
    #[arg(value_name = "MODEL|CONFIG")]
    model: String,
    /// With a config file: change a key, such as model.n_layer=6.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Arguments of `taper model init`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The config file.
    config: PathBuf,
    /// The model folder to make; it must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Change a key of the config, such as model.n_layer=6.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Runs `taper model`.
///
/// # Errors
/// If the model or the config cannot be read, or the new folder cannot be written.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Info(args) => info(&args),
        Command::Init(args) => init(&args),
        Command::Export(args) => convert::export(&args),
        Command::Convert(args) => convert::convert(&args),
    }
}

fn info(args: &Info) -> Result<()> {
    let path = Path::new(&args.model);
    let is_config = path.is_file() || path.extension().is_some_and(|extension| extension == "toml");
    let shape = if is_config {
        shape_of_config(path, &args.set)?
    } else if args.set.is_empty() {
        let ui = Terminal::new();
        let found = read(&locate(&args.model, &ui)?, &ui)?;
        found.notes.iter().for_each(|text| note(text));
        found.config
    } else {
        return Err(Error::usage("--set changes a config file, and MODEL is a model folder"));
    };
    let model = Gpt::new(shape)?;
    if args.json { print_json(&as_json(&model)?) } else { print_table(&model) }
}

fn as_json(model: &Gpt) -> Result<Value> {
    let (shape, kind) = (model.config(), FolderKind::of(model.config()));
    let ((decayed, _), (kept, _)) = groups(model);
    let mut value = json!({
        "architecture": kind.architecture(),
        "parameters": model.layout().parameters(),
        "parameters_non_embedding": model.parameters_non_embedding(),
        "parameters_decayed": decayed,
        "parameters_not_decayed": kept,
        "flops_per_token": shape.flops_per_token(),
        "loads_in_transformers": kind.loads_in_transformers(),
        "obstacles": kind.obstacles(),
    });
    if let (Value::Object(all), Value::Object(keys)) = (&mut value, shape_json(shape)?) {
        all.extend(keys);
    }
    Ok(value)
}

fn print_table(model: &Gpt) -> Result<()> {
    let (shape, kind) = (model.config(), FolderKind::of(model.config()));
    let ((decayed, decayed_tensors), (kept, kept_tensors)) = groups(model);
    let obstacles = kind.obstacles();
    let rows = [
        ("architecture", kind.architecture().to_string()),
        ("parameters", grouped(model.layout().parameters() as u64)),
        ("  without embeddings", grouped(model.parameters_non_embedding() as u64)),
        ("  decayed", format!("{} in {decayed_tensors} tensors of two or more dimensions", grouped(decayed as u64))),
        ("  not decayed", format!("{} in {kept_tensors} tensors", grouped(kept as u64))),
        ("FLOPs per token", format!("{:.4e} (forward and backward)", shape.flops_per_token() as f64)),
        ("loads in transformers", if obstacles.is_empty() { "yes" } else { "no" }.to_string()),
    ];
    for (name, value) in rows {
        print_line(&format!("{name:<22} {value}"))?;
    }
    for reason in obstacles {
        print_line(&format!("{:<22} - {reason}", ""))?;
    }
    if let Value::Object(keys) = shape_json(shape)? {
        for (key, value) in keys {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            print_line(&format!("{key:<22} {value}"))?;
        }
    }
    Ok(())
}

/// (parameters, tensors) that weight decay acts on, and those that it leaves alone.
fn groups(model: &Gpt) -> ((usize, usize), (usize, usize)) {
    let sum = |decays: bool| {
        let group = model.layout().infos().iter().filter(|info| info.decays() == decays);
        group.fold((0, 0), |(values, tensors), info| (values + info.len(), tensors + 1))
    };
    (sum(true), sum(false))
}

fn shape_json(shape: &ModelConfig) -> Result<Value> {
    serde_json::to_value(shape).map_err(|error| Error::Training(format!("the shape cannot be written: {error}")))
}

/// The shape that a config describes. A tokenizer that would be trained is taken to reach its `vocab_size`.
fn shape_of_config(path: &Path, set: &[String]) -> Result<ModelConfig> {
    resolve_shape(&mut Config::load(path, set)?)
}

/// The shape that a loaded config describes, see [`shape_of_config`]; the config is resolved by it.
pub(crate) fn resolve_shape(config: &mut Config) -> Result<ModelConfig> {
    let init = config.model.init_from.as_deref().map(start_of).transpose()?.map(|(shape, _)| shape);
    let vocab_size = match config.tokenizer.kind() {
        TokenizerKind::Train => config.tokenizer.vocab_size(),
        // The characters of a text that is not here are not needed where the config says how many there are.
        TokenizerKind::Chars if config.model.vocab_size.is_some() => 1,
        _ => with_tokenizer(config, |tokenizer| Ok(tokenizer.vocab_size()))?,
    };
    config.resolve_model(vocab_size, init.as_ref())
}

type Weights = Vec<(String, Vec<usize>, Vec<f32>)>;

/// The model that `model.init_from` names.
fn start_of(folder: &str) -> Result<(ModelConfig, Weights)> {
    let ui = Terminal::new();
    let found = read(&locate(folder, &ui)?, &ui)?;
    found.notes.iter().for_each(|text| note(text));
    Ok((found.config, found.params))
}

/// Calls `use_it` with the config's tokenizer; one that is made from text is made in a temporary folder.
fn with_tokenizer<T>(config: &Config, use_it: impl FnOnce(&Tokenizer) -> Result<T>) -> Result<T> {
    let folder = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    use_it(&source::tokenizer(folder.path(), &config.tokenizer, &config.data, &Terminal::new())?)
}

fn init(args: &InitArgs) -> Result<()> {
    let out = &args.out;
    if out.symlink_metadata().is_ok() {
        return Err(Error::usage(format!("{} exists already; choose another --out, or remove it", out.display())));
    }
    let mut config = Config::load(&args.config, &args.set)?;
    with_tokenizer(&config.clone(), |tokenizer| {
        let start = config.model.init_from.as_deref().map(start_of).transpose()?;
        let shape = config.resolve_model(tokenizer.vocab_size(), start.as_ref().map(|(shape, _)| shape))?;
        let model = Gpt::new(shape)?;
        let params = match &start {
            Some((_, values)) => model.with_values(values.iter().map(|(name, _, v)| (name.as_str(), v.as_slice())))?,
            None => model.initialise(config.run.seed_init())?,
        };
        appear(out, |folder| {
            write_model_folder(folder, model.config(), &params, tokenizer.eot())?;
            tokenizer.save(folder, model.config().context_length)
        })?;
        let kind = FolderKind::of(model.config());
        for reason in kind.obstacles() {
            note(&format!("this model will not load in transformers: {reason}"));
        }
        say(&format!("wrote {} ({} parameters)", out.display(), grouped(model.layout().parameters() as u64)));
        Ok(())
    })
}
