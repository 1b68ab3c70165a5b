//! What a preparation is asked for.

use std::path::PathBuf;

/// What to prepare, how, and where to.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// Files, folders, globs, or `cargo-sources`; in the order in which the tokens stand.
    pub inputs: Vec<String>,
    /// Text for validation apart from the inputs; then nothing is held out of them.
    pub val_inputs: Option<Vec<String>>,
    /// The folder to fill.
    pub out: PathBuf,
    /// What to call the tokenizer in the manifest.
    pub tokenizer_name: String,
    /// The fraction of the tokens, from the end, that is held out for validation: at least 0, below 1; 0 is none.
    pub val_fraction: f64,
    /// How many threads encode; 0 is one a core.
    pub threads: usize,
    /// Tokens of a full shard.
    pub shard_tokens: u64,
    /// Take special tokens spelled out in the text as such.
    pub parse_special: bool,
    /// The field or column that holds the text in JSON lines and Parquet.
    pub text_column: String,
    /// Replace a folder that was prepared from something else. (A half-made one always is; one from the same inputs,
    /// tokenizer and options is kept, or continued, either way.)
    pub overwrite: bool,
}

impl PrepareOptions {
    /// The defaults: nothing held out, all cores, shards of 100 million tokens.
    pub fn new(inputs: Vec<String>, out: impl Into<PathBuf>, tokenizer_name: impl Into<String>) -> PrepareOptions {
        PrepareOptions {
            inputs,
            val_inputs: None,
            out: out.into(),
            tokenizer_name: tokenizer_name.into(),
            val_fraction: 0.0,
            threads: 0,
            shard_tokens: 100_000_000,
            parse_special: false,
            text_column: "text".into(),
            overwrite: false,
        }
    }
}
