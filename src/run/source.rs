//! Where tokens come from: the tokenizer and the training and validation streams of a run.
//!
//! Text is tokenized into shards inside the run folder (`data/`), once: a resumed run finds them there, and preparation
//! that was interrupted continues where it stopped. A tokenizer made from the text is kept there too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::data::config::DataConfig;
use crate::data::text::{Documents, TextOptions};
use crate::data::tokenizer::config::{TokenizerConfig, TokenizerKind};
use crate::data::tokenizer::{Tokenizer, train_bpe};
use crate::data::{Manifest, PrepareOptions, Sequences, ShardFormat, ShardOptions, Shards, prepare};
use crate::error::{Error, Result};
use crate::open;
use crate::ui::Ui;

/// The folder of prepared data within a run folder.
pub const DATA: &str = "data";

/// The tokenizer of a run: built in, read from a file, or made from the training text and kept in the run folder. Data
/// sets on the Hub are fetched only when their text is read: a resumed run has its tokens.
///
/// # Errors
/// If the text or the file cannot be read, or `tokenizer.kind` needs text and there are only shards.
pub fn tokenizer(run: &Path, config: &TokenizerConfig, data: &DataConfig, ui: &dyn Ui) -> Result<Tokenizer> {
    let kind = config.kind();
    match kind {
        TokenizerKind::Gpt2 => return Tokenizer::gpt2(),
        TokenizerKind::Bytes => return Ok(Tokenizer::bytes()),
        TokenizerKind::File => {
            let path = config.path.as_deref().ok_or_else(|| Error::usage("tokenizer.path is not set"))?;
            return Tokenizer::from_name_or_path(path);
        }
        TokenizerKind::Chars | TokenizerKind::Train => {}
    }
    if data.text.is_empty() {
        return Err(Error::usage(
            "tokenizer.kind = \"train\" and \"chars\" make a tokenizer from data.text, and data.text is not set; \
             with data.shards, name the tokenizer that made them",
        ));
    }
    // What the tokenizer is made from; if that changes before the run has begun, it is made anew.
    let inputs: Vec<&String> = data.text.iter().chain(&data.val).collect();
    let recipe = json!({"kind": kind, "vocab_size": config.vocab_size(), "text": inputs, "column": data.text_column});
    let recipe = format!("{recipe:#}\n");
    let folder = run.join(DATA).join("tokenizer");
    let recipe_path = folder.join("made-from.json");
    if std::fs::read_to_string(&recipe_path).is_ok_and(|found| found == recipe) {
        return Tokenizer::from_file(&folder);
    }
    let data = &open::data_section(data, ui)?;
    let made = match kind {
        TokenizerKind::Chars => chars(data)?,
        _ => {
            ui.info(&format!("training a BPE tokenizer of {} tokens", config.vocab_size()));
            let options = TextOptions { text_column: data.text_column.clone(), ..TextOptions::default() };
            let mut texts = Documents::open(&data.text, &options)?.map(|piece| piece.map(|piece| piece.text));
            train_bpe(&mut texts, config.vocab_size(), &|_, _| {})?
        }
    };
    std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    made.save(&folder, usize::MAX >> 1)?;
    std::fs::write(&recipe_path, recipe).map_err(Error::io("write", &recipe_path))?;
    if kind == TokenizerKind::Train && made.vocab_size() < config.vocab_size() {
        ui.info(&format!(
            "the text is too small for {} tokens: the tokenizer has {}",
            config.vocab_size(),
            made.vocab_size()
        ));
    }
    // As every later run of this folder sees it.
    Tokenizer::from_file(&folder)
}

/// The characters of the training and validation text. End-of-text is a token only where there are several documents.
fn chars(data: &DataConfig) -> Result<Tokenizer> {
    let options = TextOptions { text_column: data.text_column.clone(), ..TextOptions::default() };
    let (mut found, mut documents) = (BTreeSet::new(), 0u64);
    for inputs in [&data.text, &data.val].into_iter().filter(|inputs| !inputs.is_empty()) {
        let mut here = 0;
        for piece in Documents::open(inputs, &options)? {
            let piece = piece?;
            here += u64::from(piece.starts_document);
            found.extend(piece.text.chars());
        }
        documents = documents.max(here);
    }
    Tokenizer::from_chars(&found, documents > 1)
}

/// The data of a run.
#[derive(Debug)]
pub struct Streams {
    /// What is trained on.
    pub train: Sequences,
    /// What is held out, if anything.
    pub val: Option<Sequences>,
    /// The data in words, for the summary and the model card.
    pub description: Vec<String>,
    /// What its length counts: "tokens", or "targets" where not every token is learned.
    pub unit: &'static str,
    /// What is held out, in words.
    pub held_out: &'static str,
}

/// Opens the data of a run, tokenizing text first; `vocab_size` is the model's. A run that is `resuming` has its tokens: the
/// text need not be there any more.
///
/// # Errors
/// Whatever is wrong with the inputs: missing, empty, damaged, or made with another tokenizer.
pub fn streams(
    run: &Path,
    data: &DataConfig,
    tokenizer: &Tokenizer,
    vocab_size: usize,
    resuming: bool,
    ui: &dyn Ui,
) -> Result<Streams> {
    if let Some(name) = &data.shards {
        let here = open::data_section(data, ui)?;
        let shards = here.shards.as_ref().unwrap_or(name);
        return from_shards(name, shards, &here, tokenizer, vocab_size);
    }
    let out: PathBuf = run.join(DATA).join("tokens");
    if resuming && let Some(manifest) = Manifest::load(&out)? {
        return from_text(&out, &manifest, data, tokenizer, vocab_size);
    }
    let here = open::data_section(data, ui)?;
    let mut options = PrepareOptions::new(here.text, &out, tokenizer.kind());
    options.val_inputs = (!here.val.is_empty()).then_some(here.val);
    options.val_fraction = data.val_fraction();
    options.parse_special = data.parse_special;
    options.text_column = data.text_column.clone();
    // The folder belongs to this run, which has not begun or has the same config: nothing of worth is replaced.
    options.overwrite = true;
    let manifest = prepare(&options, tokenizer, ui)?;
    from_text(&out, &manifest, data, tokenizer, vocab_size)
}

/// Opens the tokens of a run's own text.
fn from_text(
    out: &Path,
    manifest: &Manifest,
    data: &DataConfig,
    tokenizer: &Tokenizer,
    vocab_size: usize,
) -> Result<Streams> {
    let shards = Shards::open(&out.to_string_lossy(), &checked(tokenizer))?;
    shards.verify()?;
    let bytes: u64 = manifest.sources.iter().map(|source| source.bytes).sum();
    let description = vec![format!(
        "{} document(s), {:.1} MB of text from {}",
        manifest.documents,
        bytes as f64 / 1e6,
        data.text.join(", ")
    )];
    finish(shards, vocab_size, description)
}

/// Shards must have been made by this tokenizer.
fn checked(tokenizer: &Tokenizer) -> ShardOptions {
    ShardOptions { format: ShardFormat::default(), tokenizer_hash: Some(tokenizer.hash().to_string()) }
}

/// Opens shards; `name` is what the config calls them.
fn from_shards(
    name: &str,
    shards: &str,
    data: &DataConfig,
    tokenizer: &Tokenizer,
    vocab_size: usize,
) -> Result<Streams> {
    let options = checked(tokenizer);
    let mut open = Shards::open(shards, &options)?;
    open.verify()?;
    if !data.val.is_empty() {
        open.val.clear();
        for input in &data.val {
            let val = Shards::open(input, &options)?;
            val.verify()?;
            open.val.extend(val.train);
            open.val.extend(val.val);
        }
    }
    finish(open, vocab_size, vec![format!("token shards {name}")])
}

fn finish(shards: Shards, vocab_size: usize, description: Vec<String>) -> Result<Streams> {
    let (train, val) = shards.into_streams(vocab_size);
    let val = val.filter(|val| val.len() >= 2).map(|val| Sequences::Stream(Arc::new(val)));
    let held_out = "the validation split of the training data";
    Ok(Streams { train: Sequences::Stream(Arc::new(train)), val, description, unit: "tokens", held_out })
}
