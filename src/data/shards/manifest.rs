//! `manifest.json`: what a folder of prepared shards holds, from what, made by which tokenizer.
//!
//! It is written last, so a folder that has one is whole. It holds no time, machine or thread count: the same inputs make
//! the same bytes.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::shards::shard::write_whole;
use crate::error::{Error, Result};

/// Training or validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What the model learns from.
    Train,
    /// What was held out.
    Val,
}

impl Split {
    /// `train` or `val`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
        }
    }
}

/// The file's name within a prepared folder.
pub const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "taper-shards";
const VERSION: u32 = 1;

/// What a prepared folder holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `taper-shards`.
    pub format: String,
    /// The version of this record.
    pub version: u32,
    /// What turned the text into tokens.
    pub tokenizer: TokenizerRecord,
    /// How a token is stored: `uint16` or `uint32`.
    pub dtype: String,
    /// The fraction of the tokens, from the end, that was held out for validation.
    pub val_fraction: f64,
    /// Whether special tokens spelled out in the text were taken as such.
    pub parse_special: bool,
    /// How many non-empty documents were read.
    pub documents: u64,
    /// The shards, those for training first, each split in order.
    pub shards: Vec<ShardRecord>,
    /// The inputs, in order.
    pub sources: Vec<SourceRecord>,
}

/// The tokenizer of a prepared folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizerRecord {
    /// The name it was asked for by.
    pub name: String,
    /// The hash of everything that decides its ids.
    pub hash: String,
    /// One more than its greatest id.
    pub vocab_size: usize,
    /// The end-of-text token between documents; null if it has none and documents simply follow each other.
    pub eot: Option<u32>,
}

/// One shard of a prepared folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// The file within the folder.
    pub file: String,
    /// Training or validation.
    pub split: Split,
    /// How many tokens it holds.
    pub tokens: u64,
    /// How many documents begin in it, counting by end-of-text tokens; null if the tokenizer has none. A document cut
    /// between the splits begins in both.
    pub documents: Option<u64>,
    /// XXH3 (64 bits) of its token bytes, in hexadecimal.
    pub xxh3: String,
}

/// One input of a prepared folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// As it was given.
    pub input: String,
    /// Which split it was read for, before anything was held out.
    pub split: Split,
    /// How many files stood behind it.
    pub files: u64,
    /// Their size together, in bytes.
    pub bytes: u64,
}

impl Manifest {
    /// A manifest of the current version.
    pub(in crate::data) fn new(
        tokenizer: TokenizerRecord,
        dtype: &str,
        val_fraction: f64,
        parse_special: bool,
    ) -> Manifest {
        Manifest {
            format: FORMAT.into(),
            version: VERSION,
            tokenizer,
            dtype: dtype.into(),
            val_fraction,
            parse_special,
            documents: 0,
            shards: Vec::new(),
            sources: Vec::new(),
        }
    }

    /// The manifest of a folder, `None` if it has none.
    pub fn load(folder: &Path) -> Result<Option<Manifest>> {
        let path = folder.join(MANIFEST);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("read", &path))?,
        };
        let wrong = |message: String| Error::data(&path, message);
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(format!("not JSON ({error}); prepare the folder anew, or remove this file")))?;
        if value["format"] != FORMAT {
            return Err(wrong(format!("not a manifest of shards (format is {}, not {FORMAT:?})", value["format"])));
        }
        if value["version"] != VERSION {
            let found = &value["version"];
            return Err(wrong(format!(
                "version {found} of the shard manifest is unknown to this taper, which reads {VERSION}"
            )));
        }
        let manifest = serde_json::from_value(value).map_err(|error| wrong(format!("damaged: {error}")))?;
        Ok(Some(manifest))
    }

    /// Writes it into a folder, whole or not at all.
    pub(in crate::data) fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MANIFEST);
        let mut text = serde_json::to_string_pretty(self).map_err(|error| Error::data(&path, error.to_string()))?;
        text.push('\n');
        write_whole(&path, text.as_bytes())
    }

    /// The shards of a split, in order.
    pub fn of(&self, split: Split) -> impl Iterator<Item = &ShardRecord> {
        self.shards.iter().filter(move |shard| shard.split == split)
    }

    /// How many tokens a split has.
    pub fn tokens(&self, split: Split) -> u64 {
        self.of(split).map(|shard| shard.tokens).sum()
    }
}
