//! `taper eval`: how well a model predicts a text or shards; benchmarks are in `task`.
//!
//! The stream is cut into consecutive windows (see [`crate::eval`]): N tokens make N - 1 predictions. Bits per byte count
//! the bytes of the tokens that are predicted, which are all but the first; end-of-text between documents is predicted too,
//! but stands for no bytes. So texts are comparable across tokenizers.

pub mod task;

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::args::model::ModelArgs;
use crate::cli::eval::task::TaskArgs;
use crate::cli::ui::{Terminal, bar, note, print_json, print_line};
use crate::data::{
    Documents, ShardOptions, Shards, Split, TextOptions, TokenStream, eval_windows, tokenizer::Tokenizer,
};
use crate::decode::{Cpu, Decode, WeightFormat};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::eval::{Evaluation, evaluate, standard_error};
use crate::math;
use crate::open::{EngineKind, Opened, data_inputs, reference};
use crate::reference::Precision;

/// Arguments of `taper eval`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper eval runs/quickstart --data README.md
  taper eval runs/quickstart --data 'src/**/*.rs' --json
  taper eval runs/quickstart --data data/fineweb10B --split val --max-tokens 1000000
  taper eval runs/quickstart --task hellaswag --data data/hellaswag.jsonl

Text is tokenized with the model's tokenizer; end-of-text stands between documents.
With --cache-dtype, to see what a format costs, and with a --dtype other than fp32, the text goes through the engine that
generates. bits_per_byte divides by all bytes of the text, its first token included. The interval is 1.96 standard errors to each
side, over windows of the context length: how another text of the same kind would vary, not another training run.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Text (files, folders, globs), token shards (.bin files, a folder or glob of them), or OWNER/NAME, the validation
    /// split of a data set on the Hub.
    #[arg(long, value_name = "FILE|SHARDS", num_args = 1.., required = true)]
    data: Vec<String>,
    /// Which shards to measure where there are both [default: val if there is any].
    #[arg(long, value_enum)]
    split: Option<SplitName>,
    /// Measure only the first N tokens.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,
    /// Windows (with --task, continuations) that pass through the model at once; the numbers do not depend on it [default:
    /// as many as make 4096 tokens].
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    #[command(flatten)]
    tasks: TaskArgs,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// `--split`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SplitName {
    /// Training shards.
    Train,
    /// Validation shards.
    Val,
}

/// Runs `taper eval`.
///
/// # Errors
/// If the model or the data cannot be read, do not fit each other, or leave nothing to predict.
pub fn run(args: Args) -> Result<()> {
    if args.batch == Some(0) {
        return Err(Error::usage("--batch must be at least 1"));
    }
    if args.tasks.task.is_some() && args.model.engine == EngineKind::Reference {
        return Err(Error::usage("--task is scored by the native engine; leave --engine reference out"));
    }
    let mut opened = args.model.open()?;
    let on_cpu = opened.params.flat().device() == Device::Cpu;
    if args.model.cache_dtype.is_some() && (!on_cpu || args.model.engine == EngineKind::Reference) {
        return Err(Error::usage("--cache-dtype is for the CPU and the native engine"));
    }
    if args.tasks.task.is_some() && (opened.format != WeightFormat::Fp32 && on_cpu || args.model.cache_dtype.is_some())
    {
        return Err(Error::usage("--task is scored in fp32 on the CPU; leave --dtype and --cache-dtype out"));
    }
    if let Some(kind) = args.tasks.task {
        return task::run(&args.tasks, kind, &args.data, args.batch, &opened, args.json);
    }
    let stream = open_data(&args, &opened)?;
    let tokens = stream.len().min(args.max_tokens.unwrap_or(u64::MAX));
    if tokens < 2 {
        let count = if tokens == 1 { "1 token".to_string() } else { "no tokens".to_string() };
        return Err(Error::usage(format!(
            "there is nothing to predict in {}: {count}, and a prediction needs at least 2",
            if tokens < stream.len() { "what --max-tokens leaves".to_string() } else { args.data.join(", ") },
        )));
    }
    let found = measure(&args, &mut opened, &stream)?;
    let bits = text_bytes(&stream, tokens, &opened.tokenizer)?.map(|bytes| found.bits_per_byte(bytes));
    let (loss, perplexity) = (found.loss(), found.perplexity());
    if args.json {
        return print_json(&json!({
            "loss": loss,
            "perplexity": perplexity,
            "bits_per_byte": bits,
            "tokens": found.tokens,
            "predictions": found.predictions,
            "windows": found.windows,
            "standard_error": found.standard_error,
            "interval": found.interval().map(|(low, high)| [low, high]),
        }));
    }
    print_line(&format!("loss           {loss:.6} nats per token"))?;
    match found.standard_error.zip(found.interval()) {
        Some((error, (low, high))) => print_line(&format!(
            "               95% interval {low:.6} to {high:.6}, standard error {error:.6}, over {} windows",
            found.windows
        ))?,
        None => print_line("               no interval: it takes two windows")?,
    }
    print_line(&format!("perplexity     {perplexity:.4}"))?;
    match bits {
        Some(bits) => print_line(&format!("bits per byte  {bits:.6}"))?,
        None => print_line("bits per byte  unknown: some tokens have no text in this tokenizer")?,
    }
    print_line(&format!("tokens         {}", found.tokens))?;
    print_line(&format!("predictions    {}", found.predictions))
}

fn measure(args: &Args, opened: &mut Opened, stream: &TokenStream) -> Result<Evaluation> {
    let bar = bar(0, "{bar:40} {pos}/{len} predictions, {eta} left");
    let mut progress = |done: u64, all: u64| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let length = opened.model.config().context_length;
    let on_cpu = opened.params.flat().device() == Device::Cpu;
    let found = match args.model.engine {
        EngineKind::Native if on_cpu && (args.model.cache_dtype.is_some() || opened.format != WeightFormat::Fp32) => {
            let mut engine = opened.cpu_decoder(1, length)?;
            by_decoding(&mut engine, stream, args.max_tokens, &mut progress)
        }
        EngineKind::Native => {
            let batch = args.batch.unwrap_or((4096 / length).max(1));
            evaluate(&opened.model, &opened.params, stream, args.max_tokens, batch, &mut progress)
        }
        EngineKind::Reference => by_the_book(opened, stream, args.max_tokens, &mut progress),
    };
    bar.finish_and_clear();
    found
}

/// [`evaluate`] by the engine that generates, in its number formats.
fn by_decoding(
    engine: &mut Cpu,
    stream: &TokenStream,
    max_tokens: Option<u64>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Evaluation> {
    let length = engine.capacity();
    by_windows(stream, max_tokens, length, progress, &mut |ids| {
        let (mut sum, mut targets) = (0.0, ids[1..].iter());
        engine.truncate(0, 0);
        engine.feed_each(0, &ids[..ids.len() - 1], &mut |logits| {
            let Some(&target) = targets.next() else { return };
            let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let total: f64 = logits.iter().map(|&logit| math::exp_down(f64::from(logit) - top)).sum();
            sum += top + math::ln(total) - f64::from(logits[target as usize]);
        })?;
        Ok(sum)
    })
}

/// [`evaluate`] with the reference engine in float64, window by window.
fn by_the_book(
    opened: &Opened,
    stream: &TokenStream,
    max_tokens: Option<u64>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Evaluation> {
    let oracle = reference(opened.model.config(), &opened.params, Precision::F64)?;
    by_windows(stream, max_tokens, opened.model.config().context_length, progress, &mut |ids| {
        let inputs = ids.len() - 1;
        Ok(oracle.loss(&ids[..inputs], &ids[1..], 1, inputs)? * inputs as f64)
    })
}

/// An evaluation window by window: `sum_of` gives the sum of the losses of a window's targets, given its tokens.
fn by_windows(
    stream: &TokenStream,
    max_tokens: Option<u64>,
    length: usize,
    progress: &mut dyn FnMut(u64, u64),
    sum_of: &mut dyn FnMut(&[u32]) -> Result<f64>,
) -> Result<Evaluation> {
    let tokens = stream.len().min(max_tokens.unwrap_or(u64::MAX));
    let mut found = Evaluation { sum: 0.0, predictions: 0, tokens, windows: 0, standard_error: None };
    let mut sums = Vec::new();
    for window in eval_windows(tokens, length) {
        let mut ids = vec![0; window.inputs + 1];
        stream.read(window.start, &mut ids)?;
        let sum = sum_of(&ids)?;
        sums.push((sum, window.inputs as u64));
        found.sum += sum;
        found.predictions += window.inputs as u64;
        progress(found.predictions, tokens - 1);
    }
    (found.windows, found.standard_error) = (sums.len() as u64, standard_error(&sums));
    Ok(found)
}

/// The inputs as one stream of the model's tokens.
fn open_data(args: &Args, opened: &Opened) -> Result<TokenStream> {
    let inputs = data_inputs(&args.data, "validation", &Terminal::new())?;
    let shards = inputs.iter().filter(|input| is_shards(input)).count();
    if shards == 0 {
        if args.split.is_some() {
            return Err(Error::usage("--split chooses among token shards, and the data is text"));
        }
        return from_text(&inputs, opened);
    }
    if shards < inputs.len() {
        return Err(Error::usage("--data mixes text and token shards; measure them one after the other"));
    }
    let options = ShardOptions { tokenizer_hash: Some(opened.tokenizer.hash().to_string()), ..ShardOptions::default() };
    let mut chosen = Vec::new();
    let mut found = Vec::new();
    for input in &inputs {
        let shards = Shards::open(input, &options)?;
        shards.verify()?;
        found.push(shards);
    }
    let wanted = match args.split {
        Some(SplitName::Train) => Split::Train,
        Some(SplitName::Val) => Split::Val,
        None if found.iter().any(|shards| !shards.val.is_empty()) => Split::Val,
        None => Split::Train,
    };
    for shards in found {
        chosen.extend(match wanted {
            Split::Train => shards.train,
            Split::Val => shards.val,
        });
    }
    if chosen.is_empty() {
        let (name, places) = (wanted.name(), args.data.join(", "));
        return Err(Error::usage(format!("there are no {name} shards in {places}; choose the other --split")));
    }
    Ok(TokenStream::new(chosen, opened.model.config().vocab_size))
}

/// Whether an input names token shards: a .bin file, a pattern for such, or a folder that holds some.
fn is_shards(input: &str) -> bool {
    let path = Path::new(input);
    let is_bin = |path: &Path| path.extension().is_some_and(|extension| extension == "bin");
    if !path.is_dir() {
        return is_bin(path);
    }
    path.join(crate::data::shards::manifest::MANIFEST).is_file()
        || std::fs::read_dir(path).is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| is_bin(&e.path()))))
}

fn from_text(inputs: &[String], opened: &Opened) -> Result<TokenStream> {
    // Documents whole: any tokenizer may see them, and the tokens are held in memory anyway.
    let options = TextOptions { piece_bytes: usize::MAX, ..TextOptions::default() };
    let documents = Documents::open(inputs, &options)?;
    let paths: Vec<PathBuf> = documents.sources().iter().map(|source| source.path.clone()).collect();
    let mut tokens = Vec::new();
    let (mut joined, vocab_size) = (0u64, opened.model.config().vocab_size);
    for piece in documents {
        let piece = piece?;
        if piece.starts_document && !tokens.is_empty() {
            joined += 1;
            tokens.extend(opened.tokenizer.eot());
        }
        let ids = opened.tokenizer.encode_parallel(&piece.text, false);
        let ids = ids.map_err(|error| match error {
            Error::Data { message, .. } => Error::data(&paths[piece.source], message),
            other => other,
        })?;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            let message = format!("the text needs token {id}, and the model's vocabulary has only {vocab_size}");
            return Err(Error::data(&paths[piece.source], message));
        }
        tokens.extend(ids);
    }
    if joined > 0 && opened.tokenizer.eot().is_none() {
        note("this tokenizer has no end-of-text, so the documents follow each other without a mark");
    }
    Ok(TokenStream::from_tokens(tokens, vocab_size))
}

/// The bytes of the text that the tokens stand for, the first one included: bits per byte are those of the text as a file.
/// `None` if a token has no text, or there are no bytes at all.
fn text_bytes(stream: &TokenStream, tokens: u64, tokenizer: &Tokenizer) -> Result<Option<u64>> {
    // Tokenizers of other makers decode by context, so their ids are decoded in long runs; bytes of ours are exact.
    const RUN: u64 = 1 << 20;
    let (mut at, mut bytes) = (0, 0u64);
    while at < tokens {
        let mut ids = vec![0; RUN.min(tokens - at) as usize];
        stream.read(at, &mut ids)?;
        at += ids.len() as u64;
        ids.retain(|&id| Some(id) != tokenizer.eot());
        match tokenizer.decode_bytes(&ids) {
            Ok(text) => bytes += text.len() as u64,
            Err(_) => return Ok(None),
        }
    }
    Ok((bytes > 0).then_some(bytes))
}
