//! Tokenizers against independent truths: tiktoken's ids, the `tokenizers` crate, a slow plain trainer, published hashes.

mod adversarial;
mod command;
mod differential;
mod files;
mod gpt2;
mod kinds;
mod train;

use proptest::prelude::*;
use std::path::PathBuf;

/// A committed fixture, parsed. `scripts/make_tokenizer_fixtures.py` made them.
fn fixture(name: &str) -> serde_json::Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A file of the shared data, if it is on this machine; else a line says that the check is skipped.
fn shared(file: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let path = std::env::var_os("TAPER_SHARED").map_or_else(beside, PathBuf::from).join("data").join(file);
    if !path.exists() {
        println!("skipped: {} is not here", path.display());
        return None;
    }
    Some(path)
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Text with what tokenizers stumble over: many scripts, blanks of all kinds, contractions, repeats, special tokens.
fn tricky_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => prop::sample::select(vec![
            " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u{a0}", "\u{3000}", "'s", "'ll", "'", "’", "the", " the", "The",
            " shells", "lowest", "ing", "tion", "größer", "мама", "日本語", "😀", "e\u{301}", "½", "42", "1000", "()", "{}",
            "...", "---", "<|endoftext|>", "<|end", "|>", "a", "b", "aa", "ab", "<b>", "</b>", "b>", "\0", "\u{fffd}",
        ]).prop_map(String::from),
        1 => any::<String>(),
        1 => ("[ab]{1,4}", 1usize..40).prop_map(|(s, n)| s.repeat(n)),
    ];
    prop::collection::vec(part, 0..16).prop_map(|parts| parts.concat())
}
