//! The tokens of one split as one long stream, whichever files they are in.

use std::path::Path;

use crate::data::shards::shard::Shard;
use crate::error::{Error, Result};

/// The shards of a split, one after the other, or tokens in memory.
#[derive(Debug)]
pub struct TokenStream {
    parts: Parts,
    vocab_size: usize,
    len: u64,
}

#[derive(Debug)]
enum Parts {
    /// Each shard with the position of its first token.
    Shards(Vec<(u64, Shard)>),
    Memory(Vec<u32>),
}

impl TokenStream {
    /// The concatenation of shards, whose ids must be below `vocab_size`: each read checks those that it reads.
    pub fn new(shards: Vec<Shard>, vocab_size: usize) -> TokenStream {
        let mut len = 0;
        let mut parts = Vec::new();
        // Empty shards hold no position, so that every position has exactly one shard.
        for shard in shards.into_iter().filter(|shard| shard.tokens() > 0) {
            let start = len;
            len += shard.tokens();
            parts.push((start, shard));
        }
        TokenStream { parts: Parts::Shards(parts), vocab_size, len }
    }

    /// Tokens in memory, such as a short text to evaluate.
    pub fn from_tokens(tokens: Vec<u32>, vocab_size: usize) -> TokenStream {
        TokenStream { len: tokens.len() as u64, parts: Parts::Memory(tokens), vocab_size }
    }

    /// How many tokens there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The ids are below this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Copies the tokens from position `start` on into `out`.
    ///
    /// # Errors
    /// `Data` if an id is not below the vocabulary size: the file, the position in it, and the id.
    ///
    /// # Panics
    /// If the stream ends before `start + out.len()`: positions are ours to get right.
    pub fn read(&self, start: u64, out: &mut [u32]) -> Result<()> {
        let end = start.checked_add(out.len() as u64);
        assert!(end.is_some_and(|end| end <= self.len), "{} tokens at {start} of {}", out.len(), self.len);
        match &self.parts {
            Parts::Memory(tokens) => out.copy_from_slice(&tokens[start as usize..][..out.len()]),
            Parts::Shards(shards) => {
                let mut at = start;
                let mut rest = &mut *out;
                while !rest.is_empty() {
                    let (first, shard) = &shards[shard_of(shards, at)];
                    let count = rest.len().min((first + shard.tokens() - at) as usize);
                    let (now, later) = rest.split_at_mut(count);
                    shard.read(at - first, now);
                    (at, rest) = (at + count as u64, later);
                }
            }
        }
        match out.iter().position(|&id| id as usize >= self.vocab_size) {
            None => Ok(()),
            Some(i) => Err(self.out_of_vocabulary(start + i as u64, out[i])),
        }
    }

    /// The shard file that holds a position, and the position within it; `None` beyond the end or in memory.
    pub fn locate(&self, position: u64) -> Option<(&Path, u64)> {
        match &self.parts {
            Parts::Shards(shards) if position < self.len => {
                let (start, shard) = &shards[shard_of(shards, position)];
                Some((shard.path(), position - start))
            }
            _ => None,
        }
    }

    fn out_of_vocabulary(&self, position: u64, id: u32) -> Error {
        let size = self.vocab_size;
        let remedy = "the shards were made by another tokenizer, or are damaged; set model.vocab_size to fit them, or prepare them anew";
        match self.locate(position) {
            Some((path, at)) => Error::data(
                path,
                format!("token {at} has the id {id}, but the vocabulary has only {size} ids: {remedy}"),
            ),
            None => Error::Usage(format!(
                "token {position} has the id {id}, but the vocabulary has only {size} ids: {remedy}"
            )),
        }
    }
}

/// The index of the shard that holds `position`.
fn shard_of(shards: &[(u64, Shard)], position: u64) -> usize {
    shards.partition_point(|(start, _)| *start <= position) - 1
}
