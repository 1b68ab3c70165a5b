//! `taper tokenizer`: train a vocabulary; turn text into ids and back.

use clap::{Args, Subcommand};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::cli::ui::terminal::style;
use crate::cli::ui::{Terminal, bar, print_bytes, print_line, say};
use crate::data::text::{Documents, TextOptions};
use crate::data::tokenizer::{Ties, train_bpe_with};
use crate::error::{Error, Result};

/// Subcommands of `taper tokenizer`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a byte-level BPE vocabulary on text and write it as a tokenizer.json.
    #[command(after_help = "Example:\n  \
        taper tokenizer train 'src/**/*.rs' Cargo.toml --vocab-size 1024 --out tokenizer.json\n\n\
        The same text and size always give the same file. transformers loads it with\n\
        PreTrainedTokenizerFast(tokenizer_file=\"tokenizer.json\").")]
    Train(Train),
    /// Turn a text into token ids.
    #[command(after_help = "Examples:\n  \
        taper tokenizer encode Cargo.toml --tokenizer gpt2 --json > ids.json\n  \
        echo 'hello world' | taper tokenizer encode --tokenizer gpt2")]
    Encode(Encode),
    /// Turn token ids back into the text, byte for byte.
    #[command(after_help = "Examples:\n  \
        taper tokenizer encode Cargo.toml --tokenizer gpt2 --json > ids.json\n  \
        taper tokenizer decode ids.json --tokenizer gpt2\n  \
        echo '31373 995' | taper tokenizer decode --tokenizer gpt2")]
    Decode(Decode),
}

/// Arguments of `taper tokenizer train`.
#[derive(Debug, Args)]
pub struct Train {
    /// Text files, folders or globs; a file of unknown extension is UTF-8 text.
    #[arg(required = true)]
    input: Vec<String>,
    /// Number of ids: 256 bytes, `<|endoftext|>`, and one for each merge.
    #[arg(long, value_name = "N")]
    vocab_size: usize,
    /// Where to write the tokenizer.json; in a folder that is there already it gets this name.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which of equally frequent pairs is merged first.
    #[arg(long, value_enum, default_value_t = TieRule::Bytes)]
    ties: TieRule,
}

/// A rule for ties by name.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum TieRule {
    /// The one with the greater bytes.
    Bytes,
    /// The one with the smaller ids, as the tokenizers library has it.
    Ids,
}

/// Arguments of `taper tokenizer encode`.
#[derive(Debug, Args)]
pub struct Encode {
    /// The text (UTF-8); standard input if absent or `-`.
    file: Option<PathBuf>,
    /// gpt2, bytes, a tokenizer.json, or a folder that holds one.
    #[arg(long, value_name = "NAME|FOLDER|FILE")]
    tokenizer: String,
    /// Take special tokens spelled out in the text, such as `<|endoftext|>`, for what they spell.
    #[arg(long)]
    special: bool,
    /// Print {"ids":[..]} instead of ids with blanks between.
    #[arg(long)]
    json: bool,
}

/// Arguments of `taper tokenizer decode`.
#[derive(Debug, Args)]
pub struct Decode {
    /// The ids: {"ids":[..]} as `encode --json` prints it, or plain numbers; standard input if absent or `-`.
    file: Option<PathBuf>,
    /// gpt2, bytes, a tokenizer.json, or a folder that holds one.
    #[arg(long, value_name = "NAME|FOLDER|FILE")]
    tokenizer: String,
}

/// Runs `taper tokenizer`.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Train(args) => train(&args),
        Command::Encode(args) => encode(&args),
        Command::Decode(args) => decode(&args),
    }
}

fn train(args: &Train) -> Result<()> {
    let bar = bar(0, "{spinner} {msg}");
    bar.set_message("counting words");
    let merging = style("{bar:40} {pos}/{len} merges, {eta} left");
    let progress = |done: usize, total: usize| {
        if done == 1 {
            bar.set_length(total as u64);
            bar.set_style(merging.clone());
        }
        bar.set_position(done as u64);
    };
    let out = writable(&args.out)?;
    let ties = match args.ties {
        TieRule::Bytes => Ties::GreaterBytes,
        TieRule::Ids => Ties::SmallerIds,
    };
    let tokenizer = train_bpe_with(&mut texts(&args.input)?, args.vocab_size, ties, &progress)?;
    bar.finish_and_clear();
    tokenizer.save_file(&out)?;
    let size = tokenizer.vocab_size();
    if size < args.vocab_size {
        say(&format!(
            "warning: the text has no pair of tokens left that occurs twice; the vocabulary has {size} ids instead of {}",
            args.vocab_size
        ));
    }
    say(&format!("wrote {} ({size} ids)", out.display()));
    Ok(())
}

/// The file to write, once it is certain that its folder takes files: better known before the work than after.
fn writable(out: &Path) -> Result<PathBuf> {
    let file = if out.is_dir() { out.join("tokenizer.json") } else { out.to_path_buf() };
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    tempfile::tempfile_in(folder).map_err(Error::io("write into", folder))?;
    Ok(file)
}

/// The texts of the inputs, long ones in pieces that have the words of the whole.
fn texts(inputs: &[String]) -> Result<impl Iterator<Item = Result<String>>> {
    let documents = Documents::open(inputs, &TextOptions::default())?;
    Ok(documents.map(|piece| piece.map(|piece| piece.text)))
}

fn encode(args: &Encode) -> Result<()> {
    let tokenizer = crate::open::tokenizer(&args.tokenizer, &Terminal::new())?;
    let (text, name) = read_text(args.file.as_deref())?;
    let ids = tokenizer.encode_parallel(&text, args.special).map_err(|e| in_file(e, &name))?;
    let numbers: Vec<String> = ids.iter().map(u32::to_string).collect();
    if args.json { print_line(&format!("{{\"ids\":[{}]}}", numbers.join(","))) } else { print_line(&numbers.join(" ")) }
}

fn decode(args: &Decode) -> Result<()> {
    let tokenizer = crate::open::tokenizer(&args.tokenizer, &Terminal::new())?;
    let (text, name) = read_text(args.file.as_deref())?;
    let ids = parse_ids(&text).map_err(|message| Error::data(&name, message))?;
    print_bytes(&tokenizer.decode_bytes(&ids).map_err(|e| in_file(e, &name))?)
}

/// The error with the file's name in place of the library's general word for its input.
fn in_file(error: Error, name: &Path) -> Error {
    match error {
        Error::Data { message, .. } => Error::data(name, message),
        other => other,
    }
}

/// A file, or standard input, as text, and its name for messages.
fn read_text(file: Option<&Path>) -> Result<(String, PathBuf)> {
    let (bytes, name) = match file {
        Some(path) if path != Path::new("-") => {
            (std::fs::read(path).map_err(Error::io("read", path))?, path.to_path_buf())
        }
        _ => {
            let (mut bytes, name) = (Vec::new(), PathBuf::from("standard input"));
            std::io::stdin().lock().read_to_end(&mut bytes).map_err(Error::io("read", &name))?;
            (bytes, name)
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok((text, name)),
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            Err(Error::data(name, format!("is not UTF-8 text: a wrong byte at offset {at}; convert the file to UTF-8")))
        }
    }
}

/// Ids from {"ids":[..]}, a JSON array, or plain numbers with blanks or commas between.
fn parse_ids(text: &str) -> Result<Vec<u32>, String> {
    let trimmed = text.trim_start();
    if !trimmed.starts_with(['{', '[']) {
        let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
        return words
            .enumerate()
            .map(|(i, word)| word.parse().map_err(|_| format!("{word:?} at position {i} is not a token id")))
            .collect();
    }
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| format!("is not valid JSON: {e}"))?;
    let list = if value.is_object() { value.get("ids") } else { Some(&value) };
    let list = list.and_then(|ids| ids.as_array()).ok_or("has no list \"ids\": expected {\"ids\":[..]}")?;
    list.iter()
        .enumerate()
        .map(|(i, id)| {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| format!("{} at position {i} is not a token id", list[i]))
        })
        .collect()
}
