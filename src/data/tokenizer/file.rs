//! Reading tokenizer.json, and what runs on the `tokenizers` crate.
//!
//! A file is first held against the shape that our encoder knows: byte-level BPE with GPT-2's split pattern and nothing
//! that changes the text before or adds ids after. Whatever differs goes to the `tokenizers` crate as it is, byte for byte.
//! Templates of a file (a `<s>` in front) are never applied: a language model's stream has no such thing, and where a
//! prompt needs one, its author writes it.

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::alphabet::{char_to_byte, string_to_bytes};
use super::bpe::{Added, Bpe};
use super::{END_OF_TEXT, Engine, Tokenizer, gpt2};
use crate::error::{Error, Result, ResultExt};

/// Ids at or above this are taken for damage: no vocabulary has so many, and tables are as long as the largest id.
const MAX_IDS: u64 = 1 << 24;
/// More added tokens than this are searched by the `tokenizers` crate's automaton, fewer by plain search.
const MAX_ADDED: usize = 64;
/// Names of the token between documents, where no tokenizer_config.json says which it is.
const END_NAMES: [&str; 4] = [END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>"];

impl Tokenizer {
    /// Reads a Hugging Face tokenizer.json, or a folder that holds one (or GPT-2's older pair, vocab.json and merges.txt).
    pub fn from_file(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            let beside = path.with_file_name("tokenizer_config.json");
            let config = if path.ends_with("tokenizer.json") { read_config(&beside)? } else { None };
            return from_value(parse(&read_text(path)?, path)?, config, path);
        }
        let config = read_config(&path.join("tokenizer_config.json"))?;
        let file = path.join("tokenizer.json");
        if file.exists() {
            return from_value(parse(&read_text(&file)?, &file)?, config, &file);
        }
        let (vocab, merges) = (path.join("vocab.json"), path.join("merges.txt"));
        if vocab.exists() && merges.exists() {
            return from_value(old_pair(&vocab, &merges)?, config, &vocab);
        }
        Err(Error::data(path, "this folder holds no tokenizer.json (nor a vocab.json with its merges.txt)"))
    }

    /// Reads the text of a tokenizer.json; `origin` is the file that errors name.
    pub fn from_json(json: &str, origin: &Path) -> Result<Self> {
        from_value(parse(json, origin)?, None, origin)
    }
}

/// One more than the largest id of a tokenizer.json, or of a folder that holds one or GPT-2's older pair.
pub(super) fn vocab_size(path: &Path) -> Result<usize> {
    let file = [path.to_path_buf(), path.join("tokenizer.json"), path.join("vocab.json")];
    let file = file.into_iter().find(|file| file.is_file());
    let file = file.ok_or_else(|| Error::data(path, "this folder holds no tokenizer.json (nor a vocab.json)"))?;
    let value = parse(&read_text(&file)?, &file)?.value;
    // A vocab.json is the table itself.
    let table = if file.ends_with("vocab.json") { Some(&value) } else { value.pointer("/model/vocab") };
    let in_table = match table {
        // Unigram models have pairs of token and score, by id.
        Some(Value::Array(pairs)) => pairs.len() as u64,
        Some(Value::Object(table)) => table.values().filter_map(Value::as_u64).map(|id| id + 1).max().unwrap_or(0),
        _ => return Err(Error::data(&file, "has no table of tokens: this is not a tokenizer.json")),
    };
    let added = value.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let added = added.filter_map(|token| token.get("id")?.as_u64()).map(|id| id + 1).max().unwrap_or(0);
    match in_table.max(added) {
        size if size <= MAX_IDS => Ok(size as usize),
        size => Err(Error::data(&file, format!("has {size} ids: the file is damaged"))),
    }
}

/// A parsed file and its own text.
struct Parsed<'a> {
    value: Value,
    text: std::borrow::Cow<'a, str>,
}

fn parse<'a>(json: &'a str, origin: &Path) -> Result<Parsed<'a>> {
    match serde_json::from_str(json) {
        Ok(value) => Ok(Parsed { value, text: json.into() }),
        Err(e) => Err(Error::data(origin, format!("is not valid JSON ({e}); the file is damaged or something else"))),
    }
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::data(path, format!("is not UTF-8 text: a wrong byte at offset {at}"))
    })
}

fn read_config(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.exists() {
        return Ok(None);
    }
    match parse(&read_text(path)?, path)?.value {
        Value::Object(config) => Ok(Some(config)),
        _ => Err(Error::data(path, "is not a JSON object")),
    }
}

/// The tokenizer.json that a vocab.json and a merges.txt of GPT-2's kind amount to.
fn old_pair(vocab: &Path, merges: &Path) -> Result<Parsed<'static>> {
    let table = parse(&read_text(vocab)?, vocab)?.value;
    let mut pairs = Vec::new();
    for (i, line) in read_text(merges)?.lines().enumerate() {
        match line.split_once(' ') {
            _ if line.is_empty() || (i == 0 && line.starts_with("#version")) => {}
            Some(pair) => pairs.push(json!([pair.0, pair.1])),
            None => return Err(Error::data(merges, format!("line {}: {line:?} is not a pair of tokens", i + 1))),
        }
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let end = table.get(END_OF_TEXT).map(|id| {
        json!({"id": id, "content": END_OF_TEXT, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    });
    let value = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": end.into_iter().collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": table, "merges": pairs},
    });
    let text = value.to_string().into();
    Ok(Parsed { value, text })
}

fn from_value(parsed: Parsed, config: Option<Map<String, Value>>, origin: &Path) -> Result<Tokenizer> {
    let Parsed { value, text } = parsed;
    if !value.get("model").is_some_and(Value::is_object) {
        return Err(Error::data(origin, "has no \"model\" section: this is not a tokenizer.json"));
    }
    if let Some(bpe) = byte_level(&value).map_err(|message| Error::data(origin, message))? {
        let eot = end_token(config.as_ref(), |name| {
            let added = bpe.added.iter().find(|a| a.content == name).map(|a| a.id);
            added.or_else(|| {
                let known = bpe.tokens.iter().position(|t| t.as_deref() == Some(name.as_bytes()));
                known.map(|id| id as u32)
            })
        });
        let (size, plain) = (bpe.tokens.len(), bpe.merges.is_empty());
        let built = Tokenizer::from_engine(Engine::Bpe(Box::new(bpe)), "bpe", eot, config);
        let same = |known: &Tokenizer| known.hash() == built.hash();
        let kind = match size {
            gpt2::VOCAB_SIZE if same(&Tokenizer::gpt2()?) => "gpt2",
            257 if plain && same(&Tokenizer::bytes()) => "bytes",
            _ => return Ok(built),
        };
        return Ok(built.with_kind(kind));
    }
    if let Some(chars) = characters(&value) {
        return Ok(chars.with_config(config));
    }
    let foreign = Foreign::new(text.into_owned())
        .map_err(|e| Error::data(origin, e))
        .context(|| "the tokenizers crate cannot read this file (it is damaged, or of a newer kind)".to_string())?;
    let eot = end_token(config.as_ref(), |name| foreign.plain.token_to_id(name));
    Ok(Tokenizer::from_engine(Engine::Foreign(Box::new(foreign)), "file", eot, config))
}

/// The id between documents: the `eos_token` of the config, else the first known name that the vocabulary has.
fn end_token(config: Option<&Map<String, Value>>, id_of: impl Fn(&str) -> Option<u32>) -> Option<u32> {
    let named = config.and_then(|c| c.get("eos_token"));
    let named = named.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
    named.and_then(&id_of).or_else(|| END_NAMES.iter().find_map(|name| id_of(name)))
}

/// Whether `value` has at `key` nothing but `null` (or nothing at all).
fn absent(value: &Value, key: &str) -> bool {
    value.get(key).is_none_or(Value::is_null)
}

fn is_type(value: &Value, key: &str, kind: &str) -> bool {
    value.get(key).and_then(|v| v.get("type")).and_then(Value::as_str) == Some(kind)
}

/// The vocabulary, if the file is a byte-level BPE that our encoder reproduces; `Err` if it is one and inconsistent.
fn byte_level(file: &Value) -> Result<Option<Bpe>, String> {
    let (pre, model) = (&file["pre_tokenizer"], &file["model"]);
    let flag = |value: &Value, key: &str| value.get(key).and_then(Value::as_bool);
    let empty = |key: &str| model.get(key).is_none_or(|v| v.is_null() || v.as_str() == Some(""));
    let ours = absent(file, "normalizer")
        && is_type(file, "pre_tokenizer", "ByteLevel")
        && flag(pre, "add_prefix_space") == Some(false)
        && flag(pre, "use_regex") != Some(false)
        && (absent(file, "post_processor") || is_type(file, "post_processor", "ByteLevel"))
        && is_type(file, "decoder", "ByteLevel")
        && (absent(model, "type") || model["type"] == "BPE")
        && absent(model, "dropout")
        && empty("continuing_subword_prefix")
        && empty("end_of_word_suffix")
        && flag(model, "byte_fallback") != Some(true)
        && flag(model, "ignore_merges") != Some(true);
    let (true, Some(vocab), Some(merges)) =
        (ours, model.get("vocab").and_then(Value::as_object), model.get("merges").and_then(Value::as_array))
    else {
        return Ok(None);
    };
    let Some(added) = added_tokens(file, vocab)? else { return Ok(None) };

    let mut ids = rustc_hash::FxHashMap::default();
    let mut tokens: Vec<Option<Box<[u8]>>> = Vec::new();
    let mut place = |id: u32, bytes: Vec<u8>, name: &str| -> Result<(), String> {
        tokens.resize_with(tokens.len().max(id as usize + 1), || None);
        match tokens[id as usize].replace(bytes.into()) {
            None => Ok(()),
            Some(_) => Err(format!("model.vocab: id {id} is given to {name:?} and to another token")),
        }
    };
    for (name, id) in vocab {
        let id = id.as_u64().filter(|&id| id < MAX_IDS);
        let id = id.ok_or_else(|| format!("model.vocab: the id of {name:?} is not a number below {MAX_IDS}"))? as u32;
        let bytes = match string_to_bytes(name) {
            _ if added.iter().any(|a| a.content == *name) => name.as_bytes().to_vec(),
            Some(bytes) if !bytes.is_empty() => bytes,
            _ => return Ok(None),
        };
        place(id, bytes, name)?;
        ids.insert(name.as_str(), id);
    }
    for a in added.iter().filter(|a| !ids.contains_key(a.content.as_str())) {
        place(a.id, a.content.as_bytes().to_vec(), &a.content)?;
    }
    let mut byte_ids = [u32::MAX; 256];
    for (name, &id) in vocab.keys().filter_map(|name| Some((name, ids.get(name.as_str())?))) {
        if let (Some(c), 1) = (name.chars().next(), name.chars().count())
            && let Some(byte) = char_to_byte(c)
        {
            byte_ids[byte as usize] = id;
        }
    }
    if byte_ids.contains(&u32::MAX) {
        return Ok(None);
    }
    let mut pairs = Vec::with_capacity(merges.len());
    for (i, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(s) if s.starts_with("#version") => continue,
            Value::String(s) => s.split_once(' '),
            Value::Array(a) if a.len() == 2 => a[0].as_str().zip(a[1].as_str()),
            _ => None,
        };
        let (left, right) = pair.ok_or_else(|| format!("model.merges: entry {i} is not a pair of tokens"))?;
        let id_of = |token: &str| {
            ids.get(token).copied().ok_or_else(|| {
                format!("model.merges: entry {i} joins {left:?} and {right:?}, but the vocabulary lacks {token:?}")
            })
        };
        pairs.push((id_of(left)?, id_of(right)?, id_of(&format!("{left}{right}"))?));
    }
    Ok(Some(Bpe::new(tokens, pairs, added, byte_ids)))
}

/// The added tokens, if they are such as our encoder finds just as the `tokenizers` crate does.
fn added_tokens(file: &Value, vocab: &Map<String, Value>) -> Result<Option<Vec<Added>>, String> {
    let list = match file.get("added_tokens") {
        None | Some(Value::Null) => return Ok(Some(Vec::new())),
        Some(Value::Array(list)) if list.len() <= MAX_ADDED => list,
        Some(Value::Array(_)) => return Ok(None),
        Some(_) => return Err("added_tokens is not a list".into()),
    };
    let mut added: Vec<Added> = Vec::new();
    let mut unknown = 0;
    for (i, token) in list.iter().enumerate() {
        let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
        let (Some(content), Some(id)) =
            (token.get("content").and_then(Value::as_str), token.get("id").and_then(Value::as_u64))
        else {
            return Err(format!("added_tokens: entry {i} has no \"content\" or no \"id\""));
        };
        // One that the vocabulary lacks gets the next free id, whatever the file says; we take only files that agree.
        let expected = vocab.get(content).map_or(Some((vocab.len() + unknown) as u64), Value::as_u64);
        unknown += usize::from(!vocab.contains_key(content));
        let plain = !flag("single_word") && !flag("lstrip") && !flag("rstrip");
        let own_bytes = string_to_bytes(content).is_none_or(|bytes| bytes == content.as_bytes());
        let uniform = flag("normalized") == list[0].get("normalized").and_then(Value::as_bool).unwrap_or(false);
        let twice = added.iter().any(|a| a.content == content);
        if content.is_empty() || !plain || !own_bytes || !uniform || twice || expected != Some(id) || id >= MAX_IDS {
            return Ok(None);
        }
        added.push(Added { content: content.into(), id: id as u32, special: flag("special") });
    }
    Ok(Some(added))
}

/// The character tokenizer that this file was saved from, if it is one of ours.
fn characters(file: &Value) -> Option<Tokenizer> {
    let vocab = file.get("model")?.get("vocab")?.as_object()?;
    let with_eot = vocab.contains_key(END_OF_TEXT);
    let mut set = BTreeSet::new();
    for name in vocab.keys().filter(|name| *name != END_OF_TEXT) {
        let mut chars = name.chars();
        set.insert(chars.next()?);
        if chars.next().is_some() {
            return None;
        }
    }
    let built = Tokenizer::from_chars(&set, with_eot).ok()?;
    let ours: Value = serde_json::from_str(&built.canonical().json).ok()?;
    (ours == *file).then_some(built)
}

/// A tokenizer that only the `tokenizers` crate can run.
pub(super) struct Foreign {
    /// Takes special tokens in a text for ordinary text.
    plain: tokenizers::Tokenizer,
    /// Finds them.
    special: tokenizers::Tokenizer,
    /// The file, as it was read.
    pub json: String,
    size: usize,
}

impl Foreign {
    fn new(json: String) -> Result<Self, String> {
        // The crate is known to index out of bounds on some damaged files.
        let loaded = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(&json)));
        let mut special = loaded.map_err(|_| "it panicked".to_string())?.map_err(|e| e.to_string())?;
        special.with_truncation(None).map_err(|e| e.to_string())?.with_padding(None);
        let size = special.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        if size == 0 {
            return Err("its vocabulary is empty".into());
        }
        let mut plain = special.clone();
        plain.set_encode_special_tokens(true);
        special.set_encode_special_tokens(false);
        Ok(Foreign { plain, special, json, size })
    }

    pub fn vocab_size(&self) -> usize {
        self.size
    }

    pub fn encode(&self, text: &str, special: bool, out: &mut Vec<u32>) -> Result<()> {
        let engine = if special { &self.special } else { &self.plain };
        let encoding = engine.encode_fast(text, false).map_err(|e| Error::data("the text", e.to_string()))?;
        out.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.plain.decode(ids, false).map_err(|e| Error::data("the ids", e.to_string()))
    }

    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.plain.id_to_token(id)?;
        self.decode(&[id]).ok().map(String::into_bytes)
    }
}
