//! Writing tokenizers: the canonical tokenizer.json, and the files of a model folder.
//!
//! One entry stands on a line, so that two vocabularies can be compared with `diff`. `vocab.json` and `merges.txt` have
//! exactly the bytes of OpenAI's `encoder.json` and `vocab.bpe` when the vocabulary is GPT-2's.

use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

use super::alphabet::bytes_to_string;
use super::bpe::Bpe;
use super::chars::Chars;
use super::{END_OF_TEXT, Engine, Tokenizer};
use crate::error::{Error, Result};

impl Tokenizer {
    /// Writes tokenizer.json and tokenizer_config.json into `dir`, and for BPE vocab.json and merges.txt too.
    /// `AutoTokenizer` of `transformers` loads the folder as it is. `context_length` (tokens) becomes its
    /// `model_max_length`.
    pub fn save(&self, dir: &Path, context_length: usize) -> Result<()> {
        let write = |name: &str, content: &str| {
            let path = dir.join(name);
            std::fs::write(&path, content).map_err(Error::io("write", &path))
        };
        write("tokenizer.json", &self.canonical().json)?;
        let config = Value::Object(self.config(context_length));
        write("tokenizer_config.json", &format!("{config:#}\n"))?;
        if let Engine::Bpe(bpe) = &self.inner.engine
            && !bpe.merges.is_empty()
        {
            write("vocab.json", &vocab_json(bpe))?;
            write("merges.txt", &merges_txt(bpe))?;
        }
        Ok(())
    }

    /// Writes tokenizer.json alone, to `path`.
    pub fn save_file(&self, path: &Path) -> Result<()> {
        std::fs::write(path, &self.canonical().json).map_err(Error::io("write", path))
    }

    /// How a special token is spelled that tokenizer_config.json names under `key` (`bos_token`, `eos_token`); empty
    /// for none.
    pub fn special_token(&self, key: &str) -> String {
        match self.config(0).get(key) {
            Some(Value::String(token)) => token.clone(),
            Some(token) => token["content"].as_str().unwrap_or_default().to_string(),
            None => String::new(),
        }
    }

    fn config(&self, context_length: usize) -> serde_json::Map<String, Value> {
        let mut config = self.inner.config.clone().unwrap_or_default();
        // Custom code is never needed to read what we write.
        config.remove("auto_map");
        let fill = |config: &mut serde_json::Map<String, Value>, key: &str, value: Value| {
            config.entry(key).or_insert(value);
        };
        // The class that takes tokenizer.json at its word, whatever the model next to it is.
        fill(&mut config, "tokenizer_class", json!("PreTrainedTokenizerFast"));
        fill(&mut config, "clean_up_tokenization_spaces", json!(false));
        if let Some(eot) = self.eot().and_then(|id| self.token_bytes(id)) {
            let eot = Value::from(String::from_utf8_lossy(&eot));
            fill(&mut config, "bos_token", eot.clone());
            fill(&mut config, "eos_token", eot);
        }
        config.insert("model_max_length".into(), json!(context_length));
        if let Some(template) = &self.chat_template {
            config.insert("chat_template".into(), json!(**template));
        }
        config
    }
}

/// A string as JSON writes it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The string of each id in the vocabulary: an added token as it is spelled, any other in GPT-2's alphabet.
fn token_strings(bpe: &Bpe) -> impl Iterator<Item = (u32, String)> {
    let mut strings: Vec<Option<String>> = bpe.tokens.iter().map(|t| t.as_deref().map(bytes_to_string)).collect();
    for added in &bpe.added {
        strings[added.id as usize] = Some(added.content.clone());
    }
    strings.into_iter().enumerate().filter_map(|(id, string)| Some((id as u32, string?)))
}

/// Lines of a JSON array or object, joined by commas.
fn lines(indent: &str, entries: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for (i, entry) in entries.enumerate() {
        let _ = write!(text, "{}\n{indent}{entry}", if i == 0 { "" } else { "," });
    }
    text
}

fn added_json<'a>(added: impl Iterator<Item = (u32, &'a str, bool)>) -> String {
    lines(
        "    ",
        added.map(|(id, content, special)| {
            let content = quoted(content);
            format!(
                r#"{{"id": {id}, "content": {content}, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": {special}}}"#
            )
        }),
    )
}

/// The canonical tokenizer.json of a byte-level BPE vocabulary. Merges are pairs of strings (`tokenizers` 0.20 and later):
/// in the older form "a b" one that begins with "#version" would be taken for a comment.
pub(super) fn bpe_json(bpe: &Bpe) -> String {
    let added = added_json(bpe.added.iter().map(|a| (a.id, a.content.as_str(), a.special)));
    let vocab = lines("      ", token_strings(bpe).map(|(id, token)| format!("{}: {id}", quoted(&token))));
    let merges = lines("      ", merge_strings(bpe).map(|(l, r)| format!("[{}, {}]", quoted(&l), quoted(&r))));
    format!(
        r#"{{
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [{added}
  ],
  "normalizer": null,
  "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
  "post_processor": {{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true}},
  "decoder": {{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}},
  "model": {{
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": false,
    "vocab": {{{vocab}
    }},
    "merges": [{merges}
    ]
  }}
}}
"#
    )
}

/// The canonical tokenizer.json of a character vocabulary: every character is a word of its own.
pub(super) fn chars_json(chars: &Chars) -> String {
    let added = added_json(chars.eot.iter().map(|&id| (id, END_OF_TEXT, true)));
    let characters = chars.chars.iter().map(char::to_string).chain(chars.eot.map(|_| END_OF_TEXT.to_string()));
    let vocab = lines("      ", characters.enumerate().map(|(id, c)| format!("{}: {id}", quoted(&c))));
    // "<unk>" is in no vocabulary of characters, so an unknown character is an error there as it is here.
    format!(
        r#"{{
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [{added}
  ],
  "normalizer": null,
  "pre_tokenizer": {{"type": "Split", "pattern": {{"Regex": "[\\s\\S]"}}, "behavior": "Isolated", "invert": false}},
  "post_processor": null,
  "decoder": {{"type": "Fuse"}},
  "model": {{
    "type": "WordLevel",
    "vocab": {{{vocab}
    }},
    "unk_token": "<unk>"
  }}
}}
"#
    )
}

fn merge_strings(bpe: &Bpe) -> impl Iterator<Item = (String, String)> {
    let strings: Vec<String> = bpe.tokens.iter().map(|t| bytes_to_string(t.as_deref().unwrap_or_default())).collect();
    bpe.merges.iter().map(move |&(l, r, _)| (strings[l as usize].clone(), strings[r as usize].clone()))
}

fn merges_txt(bpe: &Bpe) -> String {
    let mut text = String::from("#version: 0.2\n");
    for (left, right) in merge_strings(bpe) {
        let _ = writeln!(text, "{left} {right}");
    }
    text
}

/// vocab.json on one line, characters beyond ASCII escaped, as Python's `json.dumps` writes it.
fn vocab_json(bpe: &Bpe) -> String {
    let mut text = String::new();
    for (id, token) in token_strings(bpe) {
        let separator = if text.is_empty() { "{" } else { ", " };
        let _ = write!(text, "{separator}");
        for c in quoted(&token).chars() {
            match c {
                c if c.is_ascii() => text.push(c),
                c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                    let _ = write!(text, "\\u{unit:04x}");
                }),
            }
        }
        let _ = write!(text, ": {id}");
    }
    text.push('}');
    text
}
