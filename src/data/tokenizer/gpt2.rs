//! The GPT-2 vocabulary, embedded in the binary.
//!
//! The `tiktoken-rs` crate ships OpenAI's r50k table: the bytes of each token, and a rank that is also its id. That is
//! enough to recover the merges: the two halves of a token are what is left of its bytes after all merges of lower rank.

use rustc_hash::FxHashMap;

use super::bpe::{Added, Bpe};
use super::{END_OF_TEXT, Tokenizer};
use crate::error::{Error, Result};

/// GPT-2's ids: 256 bytes, 50,000 merges, and `<|endoftext|>`, the last.
pub(super) const VOCAB_SIZE: usize = 50_257;

/// Builds the vocabulary from the embedded table.
pub(super) fn build() -> Result<Tokenizer> {
    let broken = |what: &str| Error::data("the embedded GPT-2 vocabulary", what);
    let table = tiktoken_rs::r50k_base().map_err(|e| broken(&e.to_string()))?;
    let mut tokens: Vec<Option<Box<[u8]>>> = Vec::with_capacity(VOCAB_SIZE);
    let mut ids: FxHashMap<Box<[u8]>, u32> = FxHashMap::default();
    let mut byte_ids = [u32::MAX; 256];
    let mut merges = Vec::new();
    for id in 0..VOCAB_SIZE as u32 - 1 {
        let bytes = table.decode_bytes(&[id]).map_err(|_| broken("it lacks an id"))?.into_boxed_slice();
        match bytes[..] {
            [] => return Err(broken("it has an empty token")),
            [byte] => byte_ids[byte as usize] = id,
            _ => {
                let (left, right) = halves(&bytes, &ids).ok_or_else(|| broken("a token has no two halves"))?;
                merges.push((left, right, id));
            }
        }
        ids.insert(bytes.clone(), id);
        tokens.push(Some(bytes));
    }
    if byte_ids.contains(&u32::MAX) {
        return Err(broken("it lacks a byte"));
    }
    let eot = tokens.len() as u32;
    tokens.push(Some(END_OF_TEXT.as_bytes().into()));
    let added = vec![Added { content: END_OF_TEXT.into(), id: eot, special: true }];
    Ok(Tokenizer::from_bpe(Bpe::new(tokens, merges, added, byte_ids), "gpt2", Some(eot)))
}

/// The two tokens that `bytes` comes down to by the merges of the tokens in `ids`, all of lower rank than its own.
fn halves(bytes: &[u8], ids: &FxHashMap<Box<[u8]>, u32>) -> Option<(u32, u32)> {
    let mut ends: Vec<usize> = (0..=bytes.len()).collect();
    while ends.len() > 3 {
        let merged = (0..ends.len() - 2).filter_map(|i| Some((*ids.get(&bytes[ends[i]..ends[i + 2]])?, i)));
        let (_, at) = merged.min()?;
        ends.remove(at + 1);
    }
    Some((*ids.get(&bytes[..ends[1]])?, *ids.get(&bytes[ends[1]..])?))
}
