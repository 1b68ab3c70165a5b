//! `taper data`: turn text into token shards, and look into shards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};

use crate::cli::ui::{Terminal, grouped, print_json, print_line, say};
use crate::config::Config;
use crate::data::config::DataFormat;
use crate::data::shards::inspect::{Decode, Excerpt, excerpt};
use crate::data::{
    Inspection, Loader, Manifest, PrepareOptions, ShardFormat, ShardOptions, Shards, Split, Tokenizer, inspect,
    prepare, prepare_sources,
};
use crate::error::{Error, Result};
use crate::hub::{self, Client, Repo, Selection, Settings};
use crate::open::{self, data_inputs};
use crate::run::source;
use crate::ui::Ui;

/// Subcommands of `taper data`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tokenize text into shards that `taper train`, llm.c and modded-nanogpt read.
    #[command(after_help = "Examples:\n  \
        taper data prepare README.md --tokenizer gpt2 --val-fraction 0.1 --out data/readme\n  \
        taper data prepare cargo-sources --tokenizer bytes --out data/rust\n  \
        taper data prepare 'books/**/*.txt.gz' web.parquet --val held-out.txt --tokenizer tokenizer.json --out data/mix\n\n\
        Train on the shards with --set data.shards='\"data/readme\"'. If this is stopped, run it again: it continues where it was.")]
    Prepare(Prepare),
    /// Fetch a data set from the Hugging Face Hub, and tokenize it if asked to.
    #[command(after_help = "Examples:\n  \
        taper data pull roneneldan/TinyStories --tokenizer gpt2 --out data/stories --val-split validation\n  \
        taper data pull HuggingFaceFW/fineweb --folder sample/10BT --limit 2 --tokenizer gpt2 --val-fraction 0.01 --out data/web\n  \
        taper data pull kjj0/fineweb10B-gpt2 --files 'fineweb_*_00000[01].bin'\n\n\
        With --out each file is tokenized and removed while the next one comes in, so two at most are on disk; if this is\n\
        stopped, run it again: it continues where it was. Without --out the files stay in the cache, and their folder is\n\
        printed; ready .bin shards are trained on from there.")]
    Pull(Pull),
    /// Say what shards hold, check them, and show the text at a position.
    #[command(after_help = "Examples:\n  \
        taper data inspect data/readme --verify\n  \
        taper data inspect data/readme --at 100 --tokens 20\n  \
        taper data inspect runs/quickstart --sequence 640 --count 8\n  \
        taper data inspect 'fineweb10B/fineweb_train_*.bin' --at 0 --tokenizer gpt2 --json")]
    Inspect(Inspect),
}

/// Arguments of `taper data prepare`.
#[derive(Debug, Args)]
pub struct Prepare {
    /// Files (.txt, .md, .jsonl, each also as .gz or .zst; .parquet; anything else is UTF-8 text), folders, globs, the word
    /// cargo-sources, or OWNER/NAME, the training split of a data set on the Hub.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,
    /// gpt2, bytes, a tokenizer.json, or a folder that holds one.
    #[arg(long, value_name = "NAME|FILE")]
    tokenizer: String,
    /// The folder to fill.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Hold out this fraction of the tokens, from the end, for validation.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    val_fraction: f64,
    /// Text for validation, instead of holding out a fraction; may be given several times.
    #[arg(long, value_name = "INPUT")]
    val: Vec<String>,
    /// How many threads encode; 0 is one a core. The shards do not depend on it.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// The field or column that holds the text in JSON lines and Parquet.
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_column: String,
    /// Take special tokens spelled out in the text, such as <|endoftext|>, for what they spell.
    #[arg(long)]
    parse_special: bool,
    /// Tokens of a full shard.
    #[arg(long, value_name = "N", default_value_t = SHARD_TOKENS)]
    shard_tokens: u64,
    /// Replace a folder that holds other shards.
    #[arg(long)]
    overwrite: bool,
    /// Print the manifest as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `taper data pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// The data set on the Hub.
    #[arg(value_name = "OWNER/NAME")]
    dataset: String,
    /// A branch, tag or commit [default: main].
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// The split, found by its name in the paths of the files.
    #[arg(long, value_name = "NAME", default_value = "train")]
    split: String,
    /// Only files in this folder of the repository.
    #[arg(long, value_name = "PATH")]
    folder: Option<String>,
    /// Only files whose paths match this pattern; nothing is guessed then.
    #[arg(long, value_name = "PATTERN")]
    files: Option<String>,
    /// At most so many files of a split.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Tokenize with this: gpt2, bytes, a tokenizer.json, a folder, or OWNER/NAME.
    #[arg(long, value_name = "NAME|FILE", requires = "out")]
    tokenizer: Option<String>,
    /// The folder to fill with shards.
    #[arg(long, value_name = "DIR", requires = "tokenizer")]
    out: Option<PathBuf>,
    /// The split for validation.
    #[arg(long, value_name = "NAME", requires = "out", conflicts_with_all = ["val_fraction", "files"])]
    val_split: Option<String>,
    /// Hold out this fraction of the tokens, from the end, for validation.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    val_fraction: f64,
    /// The field or column that holds the text.
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_column: String,
    /// Replace a folder that holds other shards.
    #[arg(long)]
    overwrite: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `taper data inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A folder of shards, a glob, or one shard; with --sequence, a run folder.
    #[arg(value_name = "DIR")]
    input: String,
    /// Show the text from this position (in tokens, from 0) of the split on.
    #[arg(long, value_name = "POSITION")]
    at: Option<u64>,
    /// Show the training sequence of this number (from 0, over the whole run) as the run of this folder reads it: an
    /// incident in a run's report names the sequences of its step.
    #[arg(long, value_name = "N", conflicts_with_all = ["at", "split", "tokenizer", "format", "verify"])]
    sequence: Option<u64>,
    /// How many sequences to show.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "sequence")]
    count: u64,
    /// How many tokens to show [default: 64; a whole sequence].
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Which split to show.
    #[arg(long, value_enum, default_value_t = SplitName::Train)]
    split: SplitName,
    /// What to decode with (default: the tokenizer that is in the folder); shards made by another are refused.
    #[arg(long, value_name = "NAME|FILE")]
    tokenizer: Option<String>,
    /// The layout of the shards.
    #[arg(long, value_enum, default_value_t = FormatName::Auto)]
    format: FormatName,
    /// Read every shard and compare it with its checksum.
    #[arg(long)]
    verify: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A split by name.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SplitName {
    /// What the model learns from.
    Train,
    /// What was held out.
    Val,
}

/// A layout by name.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FormatName {
    /// By the header; train.bin and val.bin without one are nanoGPT's.
    Auto,
    /// llm.c and modded-nanogpt.
    Llmc,
    /// Headerless uint16.
    Nanogpt,
}

/// Runs `taper data`.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Prepare(args) => run_prepare(args),
        Command::Pull(args) => run_pull(args),
        Command::Inspect(args) => run_inspect(&args),
    }
}

fn run_prepare(args: Prepare) -> Result<()> {
    let tokenizer = crate::open::tokenizer(&args.tokenizer, &Terminal::new())?;
    let val = data_inputs(&args.val, "validation", &Terminal::new())?;
    let options = PrepareOptions {
        val_inputs: (!val.is_empty()).then_some(val),
        val_fraction: args.val_fraction,
        threads: args.threads,
        shard_tokens: args.shard_tokens,
        parse_special: args.parse_special,
        text_column: args.text_column,
        overwrite: args.overwrite,
        ..PrepareOptions::new(data_inputs(&args.inputs, "train", &Terminal::new())?, &args.out, args.tokenizer)
    };
    let bar = Terminal::with_rates();
    let made = prepare(&options, &tokenizer, &bar);
    bar.end();
    tell(&tokenizer, &made?, &args.out, args.json)
}

/// Puts the tokenizer next to the shards, and says what was made.
fn tell(tokenizer: &Tokenizer, manifest: &Manifest, out: &Path, json: bool) -> Result<()> {
    // The folder then says by itself what its tokens mean.
    tokenizer.save_file(&out.join(TOKENIZER))?;
    if json {
        return print_json(&serde_json::to_value(manifest).map_err(|error| Error::data(out, error.to_string()))?);
    }
    print_line(&format!(
        "{}: {} tokens for training, {} for validation, from {} documents, in {} shards of {}",
        out.display(),
        grouped(manifest.tokens(Split::Train)),
        grouped(manifest.tokens(Split::Val)),
        grouped(manifest.documents),
        manifest.shards.len(),
        manifest.dtype,
    ))
}

fn run_pull(args: Pull) -> Result<()> {
    let mut repo = Repo::dataset(&args.dataset)?;
    if let Some(revision) = &args.revision {
        repo = repo.at(revision)?;
    }
    let (client, bar) = (Client::new(Settings::from_env()?), Terminal::new());
    let select = |split: &str| {
        let (folder, files) = (args.folder.clone(), args.files.clone());
        Selection { split: split.into(), folder, files, limit: args.limit }
    };
    if let (Some(tokenizer), Some(out)) = (&args.tokenizer, &args.out) {
        let selections: Vec<Selection> =
            std::iter::once(&args.split).chain(&args.val_split).map(|s| select(s)).collect();
        return stream_and_prepare(&args, client, &repo, &selections, tokenizer, out);
    }
    let train = hub::pull_dataset(&client, &repo, &select(&args.split), &bar)?;
    if args.json {
        return print_json(&serde_json::json!({
            "dataset": repo.id(),
            "folder": train.folder.to_string_lossy(),
            "commit": train.commit,
            "files": train.files,
            "fetched": train.fetched,
        }));
    }
    let commit = &train.commit[..7];
    say(&format!("{repo} at commit {commit}: {} files, {} of them fetched now", train.files.len(), train.fetched));
    print_line(&train.folder.to_string_lossy())
}

/// Tokenizes a data set while it comes in.
fn stream_and_prepare(
    args: &Pull,
    client: Client,
    repo: &Repo,
    selections: &[Selection],
    name: &str,
    out: &Path,
) -> Result<()> {
    let tokenizer = crate::open::tokenizer(name, &Terminal::new())?;
    let spool = out.join(".fetch");
    let streamed = hub::stream_dataset(client, repo, selections, &spool)?;
    let called = |split: &str| vec![format!("{}@{} ({split})", repo.id(), &streamed.commit[..12])];
    let options = PrepareOptions {
        val_inputs: args.val_split.as_deref().map(called),
        val_fraction: args.val_fraction,
        text_column: args.text_column.clone(),
        overwrite: args.overwrite,
        ..PrepareOptions::new(called(&args.split), out, name)
    };
    let mut sources = streamed.sources.into_iter();
    let (train, val) = (sources.next().unwrap_or_default(), sources.next().unwrap_or_default());
    let bar = Terminal::with_rates();
    let made = prepare_sources(&options, train, val, &tokenizer, &bar);
    bar.end();
    let manifest = made?;
    match std::fs::remove_dir_all(&spool) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &spool)(error)),
        _ => {}
    }
    tell(&tokenizer, &manifest, out, args.json)
}

/// Tokens of a full shard, unless told otherwise.
const SHARD_TOKENS: u64 = 100_000_000;

/// The tokenizer next to the shards it made.
const TOKENIZER: &str = "tokenizer.json";

fn run_inspect(args: &Inspect) -> Result<()> {
    if let Some(first) = args.sequence {
        return show_sequences(args, first);
    }
    let own = PathBuf::from(&args.input).join(TOKENIZER);
    let tokenizer = match &args.tokenizer {
        Some(name) => Some(crate::open::tokenizer(name, &Terminal::new())?),
        None if args.at.is_some() && own.is_file() => Some(Tokenizer::from_name_or_path(&own.to_string_lossy())?),
        None => None,
    };
    let format = match args.format {
        FormatName::Auto => ShardFormat::Auto,
        FormatName::Llmc => ShardFormat::Llmc,
        FormatName::Nanogpt => ShardFormat::NanoGpt,
    };
    let options =
        ShardOptions { format, tokenizer_hash: tokenizer.as_ref().map(|tokenizer| tokenizer.hash().to_string()) };
    let found = inspect(&args.input, &options, args.verify)?;
    let excerpt = args.at.map(|at| look(args, &options, tokenizer.as_ref(), at)).transpose()?;
    if args.json {
        let wrong = |error: serde_json::Error| Error::data(&args.input, error.to_string());
        let mut value = serde_json::to_value(&found).map_err(wrong)?;
        if let Some(excerpt) = &excerpt {
            value["excerpt"] = serde_json::to_value(excerpt).map_err(wrong)?;
        }
        return print_json(&value);
    }
    describe(&found)?;
    match excerpt {
        None => Ok(()),
        Some(excerpt) => {
            print_line(&format!(
                "\n{} tokens at {} of {} (token {} of {}):",
                excerpt.tokens.len(),
                excerpt.position,
                excerpt.split.name(),
                excerpt.offset,
                excerpt.file
            ))?;
            print_line(&excerpt.text.unwrap_or_else(|| format!("{:?}  (--tokenizer decodes them)", excerpt.tokens)))
        }
    }
}

fn look(args: &Inspect, options: &ShardOptions, tokenizer: Option<&Tokenizer>, at: u64) -> Result<Excerpt> {
    let split = match args.split {
        SplitName::Train => Split::Train,
        SplitName::Val => Split::Val,
    };
    // Without a tokenizer any id that the file can hold may be shown.
    let vocab_size = tokenizer.map_or(usize::MAX, Tokenizer::vocab_size);
    let (train, val) = Shards::open(&args.input, options)?.into_streams(vocab_size);
    let stream = match split {
        Split::Train => train,
        Split::Val => val.ok_or_else(|| Error::usage(format!("{}: there are no validation shards", args.input)))?,
    };
    let decode = tokenizer.map(|tokenizer| move |ids: &[u32]| tokenizer.decode(ids));
    excerpt(&stream, split, at, args.tokens.unwrap_or(64), decode.as_ref().map(|decode| decode as &Decode))
}

/// Shows training sequences by their numbers, as a run reads them: its data, its tokenizer, its order.
fn show_sequences(args: &Inspect, first: u64) -> Result<()> {
    let run = Path::new(&args.input);
    let path = run.join("config.toml");
    if !path.is_file() {
        return Err(Error::usage(format!(
            "{} holds no config.toml; --sequence needs a run folder, whose config says which data it reads in which order",
            run.display()
        )));
    }
    let config = Config::load(&path, &[])?;
    let context_length = config.model.context_length.ok_or_else(|| {
        Error::data(&path, "model.context_length is not there; the config.toml of a run says every key of its model")
    })?;
    if config.data.format == DataFormat::Chat {
        return Err(Error::usage(format!(
            "{} trains on conversations (data.format = \"chat\"), whose sequences are not windows of a text; this command shows \
             text",
            run.display()
        )));
    }
    let section = open::tokenizer_section(&config.tokenizer, &Terminal::new())?;
    let tokenizer = source::tokenizer(run, &section, &config.data, &Terminal::new())?;
    let made = run.join(source::DATA).join("tokens").to_string_lossy().into_owned();
    let options = ShardOptions { tokenizer_hash: Some(tokenizer.hash().to_string()), ..ShardOptions::default() };
    let shards = Shards::open(config.data.shards.as_ref().unwrap_or(&made), &options)?;
    let stream = Arc::new(shards.into_streams(tokenizer.vocab_size()).0);
    let loader = Loader::new(stream.clone(), context_length, config.data.shuffle, config.run.seed_data())?;
    let decode = |ids: &[u32]| tokenizer.decode(ids);
    let mut found = Vec::new();
    for sequence in first..first.saturating_add(args.count) {
        let (at, count) = (loader.start_of(sequence), args.tokens.unwrap_or(context_length));
        let excerpt = excerpt(&stream, Split::Train, at, count, Some(&decode))?;
        if args.json {
            let mut value = serde_json::to_value(&excerpt).map_err(|error| Error::data(run, error.to_string()))?;
            value["sequence"] = sequence.into();
            found.push(value);
            continue;
        }
        let Excerpt { position, offset, file, text, .. } = excerpt;
        print_line(&format!("sequence {sequence}: position {position} of train (token {offset} of {file})"))?;
        print_line(&format!("{}\n", text.unwrap_or_default()))?;
    }
    if args.json { print_json(&serde_json::json!({ "sequences": found })) } else { Ok(()) }
}

fn describe(found: &Inspection) -> Result<()> {
    let (train, val) = (grouped(found.train_tokens), grouped(found.val_tokens));
    print_line(&format!("{}: {train} tokens for training, {val} for validation", found.input))?;
    if let Some(tokenizer) = &found.tokenizer {
        let short = tokenizer.hash.get(..12).unwrap_or(&tokenizer.hash);
        print_line(&format!(
            "tokenizer  {} ({} ids, hash {short})",
            tokenizer.name,
            grouped(tokenizer.vocab_size as u64)
        ))?;
    }
    if let Some(documents) = found.documents {
        print_line(&format!("documents  {}", grouped(documents)))?;
    }
    for source in &found.sources {
        let (split, files, bytes) = (source.split.name(), grouped(source.files), grouped(source.bytes));
        print_line(&format!("source     {} ({split}: {files} files, {bytes} bytes)", source.input))?;
    }
    for shard in &found.shards {
        let documents = shard.documents.map(|count| format!("{} documents, ", grouped(count))).unwrap_or_default();
        let (split, tokens, dtype) = (shard.split.name(), grouped(shard.tokens), shard.dtype);
        print_line(&format!("  {:5}  {:>13} tokens, {documents}{dtype}  {}", split, tokens, shard.file))?;
    }
    match found.verified {
        None => Ok(()),
        Some(0) => print_line("no checksums: these shards have no manifest (sizes and headers are right)"),
        Some(count) => print_line(&format!("checksums of all {count} shards are right")),
    }
}
