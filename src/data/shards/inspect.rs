//! What is in a folder of shards: totals, each shard, checksums, and the text at a position.

use serde::Serialize;

use crate::data::shards::manifest::{SourceRecord, TokenizerRecord};
use crate::data::shards::stream::TokenStream;
use crate::data::shards::{ShardOptions, Shards, Split};
use crate::error::{Error, Result};

/// What shards hold.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The folder, glob or file that was opened.
    pub input: String,
    /// All tokens for training.
    pub train_tokens: u64,
    /// All tokens for validation.
    pub val_tokens: u64,
    /// How many documents were read; null without a manifest.
    pub documents: Option<u64>,
    /// What made the shards; null without a manifest.
    pub tokenizer: Option<TokenizerRecord>,
    /// What they were made from; empty without a manifest.
    pub sources: Vec<SourceRecord>,
    /// Each shard.
    pub shards: Vec<ShardInspection>,
    /// How many shards were compared with their checksums and found whole; null if that was not asked for.
    pub verified: Option<usize>,
}

/// One shard.
#[derive(Clone, Debug, Serialize)]
pub struct ShardInspection {
    /// The file.
    pub file: String,
    /// Its split.
    pub split: Split,
    /// Its tokens.
    pub tokens: u64,
    /// The documents that begin in it, where known.
    pub documents: Option<u64>,
    /// `uint16` or `uint32`.
    pub dtype: &'static str,
    /// The checksum in the manifest, if any.
    pub xxh3: Option<String>,
}

/// Text at a position of a split.
#[derive(Clone, Debug, Serialize)]
pub struct Excerpt {
    /// The split.
    pub split: Split,
    /// The position of the first token in the split.
    pub position: u64,
    /// The shard file of that token, and its position there.
    pub file: String,
    /// See `file`.
    pub offset: u64,
    /// The token ids.
    pub tokens: Vec<u32>,
    /// What they say; null if no tokenizer was at hand.
    pub text: Option<String>,
}

/// Opens shards and tells what they hold; with `verify`, every byte is read and compared with the checksums.
pub fn inspect(input: &str, options: &ShardOptions, verify: bool) -> Result<Inspection> {
    let shards = Shards::open(input, options)?;
    let verified = if verify { Some(shards.verify()?) } else { None };
    let manifest = shards.manifest.as_ref();
    let mut list = Vec::new();
    for (split, shard) in [Split::Train, Split::Val].into_iter().flat_map(|s| shards.of(s).iter().map(move |f| (s, f)))
    {
        let file = shard.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let record = manifest.and_then(|manifest| manifest.shards.iter().find(|record| record.file == file));
        list.push(ShardInspection {
            split,
            tokens: shard.tokens(),
            documents: record.and_then(|record| record.documents),
            dtype: shard.layout().dtype(),
            xxh3: record.map(|record| record.xxh3.clone()),
            file,
        });
    }
    let total = |split| list.iter().filter(|shard| shard.split == split).map(|shard| shard.tokens).sum();
    Ok(Inspection {
        input: input.to_string(),
        train_tokens: total(Split::Train),
        val_tokens: total(Split::Val),
        documents: manifest.map(|manifest| manifest.documents),
        tokenizer: manifest.map(|manifest| manifest.tokenizer.clone()),
        sources: manifest.map(|manifest| manifest.sources.clone()).unwrap_or_default(),
        shards: list,
        verified,
    })
}

/// What turns ids into text.
pub type Decode<'a> = dyn Fn(&[u32]) -> Result<String> + 'a;

/// Up to `count` tokens of a split from `position` on, decoded if there is something to decode them with.
///
/// # Errors
/// `Usage` if the position is beyond the end.
pub fn excerpt(
    stream: &TokenStream,
    split: Split,
    position: u64,
    count: usize,
    decode: Option<&Decode>,
) -> Result<Excerpt> {
    let Some((path, offset)) = stream.locate(position) else {
        let (name, len) = (split.name(), stream.len());
        return Err(Error::usage(format!(
            "there is no position {position}: the {name} split has {len} tokens, counted from 0"
        )));
    };
    let mut tokens = vec![0; count.min((stream.len() - position) as usize)];
    stream.read(position, &mut tokens)?;
    let text = decode.map(|decode| decode(&tokens)).transpose()?;
    Ok(Excerpt { split, position, file: path.display().to_string(), offset, tokens, text })
}
