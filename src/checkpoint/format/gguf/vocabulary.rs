//! A tokenizer as llama.cpp wants it: tokens, their types, and merges, from a Hugging Face tokenizer.json.
//!
//! llama.cpp knows split patterns by name, not as data. We write only those two whose patterns we know to be the same:
//! GPT-2's ("gpt-2") and that of single digits before GPT-2's ("smollm"). Everything else is refused with the reason, since
//! a wrong pattern gives wrong ids without a word.

use super::file::Meta;
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// llama.cpp's kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The metadata of a tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    pre: &'static str,
    tokens: Vec<(String, i32)>,
    merges: Vec<String>,
    eot: Option<u32>,
}

impl Vocabulary {
    /// Reads the text of a tokenizer.json; `origin` is the file that errors name. `eot` is the token between documents.
    ///
    /// # Errors
    /// `Data` if the file is damaged, or of a kind that a GGUF file cannot carry.
    pub fn from_json(json: &str, origin: &Path, eot: Option<u32>) -> Result<Vocabulary> {
        let file: Value =
            serde_json::from_str(json).map_err(|error| Error::data(origin, format!("is not valid JSON: {error}")))?;
        let refused = |reason: &str| {
            Error::data(
                origin,
                format!(
                    "{reason}, and llama.cpp has no tokenizer like that; write the file without one \
                     (--no-tokenizer), and give it token ids"
                ),
            )
        };
        let model = &file["model"];
        if model["type"] == "WordLevel" {
            return Err(refused("takes each character for a token"));
        }
        if model.get("type").is_some_and(|kind| kind != "BPE") {
            return Err(refused(&format!("is of the kind {}", model["type"])));
        }
        let on = |key: &str| model.get(key).and_then(Value::as_bool) == Some(true);
        if on("byte_fallback") || on("ignore_merges") {
            return Err(refused("is BPE with byte_fallback or ignore_merges"));
        }
        if !file["normalizer"].is_null() {
            return Err(refused("changes the text before it is split (\"normalizer\")"));
        }
        let pre = pre_tokenizer(&file["pre_tokenizer"])
            .ok_or_else(|| refused("splits text by another pattern than GPT-2's"))?;
        let (tokens, merges) = parts(&file).map_err(|message| Error::data(origin, message))?;
        Ok(Vocabulary { pre, tokens, merges, eot })
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no ids.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The token between documents.
    pub fn eot(&self) -> Option<u32> {
        self.eot
    }

    /// The keys and values, with unused tokens up to `rows`.
    pub(super) fn metadata(&self, rows: usize) -> Vec<(String, Meta)> {
        let mut tokens = self.tokens.clone();
        let taken: BTreeSet<&str> = self.tokens.iter().map(|(text, _)| text.as_str()).collect();
        for id in tokens.len()..rows {
            let mut text = format!("[PAD{id}]");
            while taken.contains(text.as_str()) {
                text.push('_');
            }
            tokens.push((text, UNUSED));
        }
        let (texts, types) = tokens.into_iter().unzip();
        let mut list = vec![
            ("tokenizer.ggml.model".to_string(), Meta::Text("gpt2".into())),
            ("tokenizer.ggml.pre".to_string(), Meta::Text(self.pre.into())),
            ("tokenizer.ggml.tokens".to_string(), Meta::Texts(texts)),
            ("tokenizer.ggml.token_type".to_string(), Meta::I32s(types)),
            ("tokenizer.ggml.merges".to_string(), Meta::Texts(self.merges.clone())),
        ];
        if let Some(eot) = self.eot {
            list.push(("tokenizer.ggml.bos_token_id".into(), Meta::U32(eot)));
            list.push(("tokenizer.ggml.eos_token_id".into(), Meta::U32(eot)));
        }
        // A document's text stands alone in training: nothing before it, nothing after.
        list.push(("tokenizer.ggml.add_bos_token".into(), Meta::Bool(false)));
        list.push(("tokenizer.ggml.add_eos_token".into(), Meta::Bool(false)));
        list
    }
}

/// llama.cpp's name for a split pattern.
fn pre_tokenizer(pre: &Value) -> Option<&'static str> {
    let plain = |value: &Value| {
        value["type"] == "ByteLevel"
            && value["add_prefix_space"] == false
            && value.get("use_regex").is_none_or(|regex| regex == true)
    };
    if plain(pre) {
        return Some("gpt-2");
    }
    match pre["pretokenizers"].as_array()?.as_slice() {
        [one] if plain(one) => Some("gpt-2"),
        [digits, rest] if digits["type"] == "Digits" && digits["individual_digits"] == true && plain(rest) => {
            Some("smollm")
        }
        _ => None,
    }
}

type Parts = (Vec<(String, i32)>, Vec<String>);

/// Tokens with their types by id, and merges.
fn parts(file: &Value) -> std::result::Result<Parts, String> {
    let model = &file["model"];
    let vocab = model["vocab"].as_object().ok_or("has no model.vocab")?;
    let empty = Vec::new();
    let added = file["added_tokens"].as_array().unwrap_or(&empty);
    // Every id is an entry's, so none is beyond their number.
    let most = vocab.len() + added.len();
    let mut tokens: Vec<Option<(String, i32)>> = Vec::new();
    let mut place = |text: &str, id: Option<u64>, kind: i32| -> std::result::Result<(), String> {
        let id = id.map(|id| id as usize).filter(|&id| id < most);
        let id = id.ok_or_else(|| format!("gives the token {text:?} no id, or one beyond its {most} entries"))?;
        tokens.resize(tokens.len().max(id + 1), None);
        match &tokens[id] {
            Some((other, _)) if other != text => Err(format!("gives id {id} to {other:?} and to {text:?}")),
            _ => {
                tokens[id] = Some((text.to_string(), kind));
                Ok(())
            }
        }
    };
    for (text, id) in vocab {
        place(text, id.as_u64(), NORMAL)?;
    }
    for token in added {
        let text = token["content"].as_str().ok_or("has an added token without \"content\"")?;
        place(text, token["id"].as_u64(), if token["special"] == true { CONTROL } else { USER_DEFINED })?;
    }
    let tokens = tokens
        .into_iter()
        .enumerate()
        .map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED)))
        .collect::<Vec<_>>();
    let distinct: BTreeSet<&str> = tokens.iter().map(|(text, _)| text.as_str()).collect();
    if distinct.len() != tokens.len() {
        return Err("has two ids of the same text, which llama.cpp does not take".into());
    }
    let mut merges = Vec::new();
    for (i, merge) in model["merges"].as_array().unwrap_or(&empty).iter().enumerate() {
        match merge {
            Value::String(text) if text.starts_with("#version") && i == 0 => {}
            Value::String(text) if text.contains(' ') => merges.push(text.clone()),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => merges.push(format!("{left} {right}")),
                _ => return Err(format!("model.merges: entry {i} is not a pair of tokens")),
            },
            _ => return Err(format!("model.merges: entry {i} is not a pair of tokens")),
        }
    }
    Ok((tokens, merges))
}
