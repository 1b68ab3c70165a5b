//! Text in, token sequences out: the way of a token before the model sees it.
//!
//! ```text
//! inputs ─ text::Documents ─ prepare ─ shards + manifest ─ Shards ─ TokenStream ─ Loader ─ sequences of T + 1 tokens
//! ```
//!
//! The one idea: everything downstream of the text is a pure function of it. Documents come in the order of the inputs,
//! pieces are cut where the tokenizer cannot see the cut, shards are the same bytes whatever the thread count or the
//! number of restarts, and the order of sequences is a function of (seed, epoch, position) with no state to save.

pub mod batch;
pub mod chat;
pub mod config;
pub mod conversation;
pub mod conversation_store;
pub mod corpus;
pub mod inputs;
pub mod inspect;
mod journal;
pub mod jsonl;
pub mod loader;
pub mod manifest;
pub mod packed;
mod parquet;
pub mod pieces;
mod pipeline;
pub mod prepare;
pub mod shard;
pub mod shards;
mod split;
pub mod stream;
pub mod text;
pub mod tokenizer;

pub use batch::{Batch, IGNORE};
pub use chat::{ChatTemplate, Message};
pub use conversation::Conversations;
pub use corpus::{CARGO_SOURCES, Corpus};
pub use inputs::{Remote, Source};
pub use inspect::{Inspection, inspect};
pub use loader::{Loader, Sequences, Window, eval_windows};
pub use manifest::Manifest;
pub use packed::Packed;
pub use prepare::{PrepareOptions, Progress, Silent, prepare, prepare_sources};
pub use shard::{Layout, Shard, ShardFormat};
pub use shards::{ShardOptions, Shards, Split};
pub use stream::TokenStream;
pub use text::{Documents, Piece, TextOptions};
pub use tokenizer::Tokenizer;

use crate::error::Result;

/// What preparation needs to know of a tokenizer.
pub trait Encode: Sync {
    /// Appends the token ids of `text` to `ids`. Special tokens spelled out in the text are ordinary text unless
    /// `special`. No end-of-text token is added.
    fn encode_into(&self, text: &str, special: bool, ids: &mut Vec<u32>) -> Result<()>;

    /// One more than the greatest token id.
    fn vocab_size(&self) -> usize;

    /// The end-of-text token that stands between documents, if there is one.
    fn eot(&self) -> Option<u32>;

    /// A hash of everything that decides the ids, in hexadecimal: two tokenizers with one hash encode alike.
    fn hash(&self) -> &str;

    /// Whether a long document may be encoded in pieces cut by [`pieces::next_cut`] with the ids of the whole: true for
    /// bytes, characters and every tokenizer that first splits text as GPT-2 (or a descendant) does, without a normalizer.
    /// Where it is false, documents are held and encoded whole, and memory grows with the longest document.
    fn cuttable(&self, special: bool) -> bool {
        let _ = special;
        true
    }
}

impl Encode for Tokenizer {
    fn encode_into(&self, text: &str, special: bool, ids: &mut Vec<u32>) -> Result<()> {
        Tokenizer::encode_into(self, text, special, ids)
    }

    fn vocab_size(&self) -> usize {
        Tokenizer::vocab_size(self)
    }

    fn eot(&self) -> Option<u32> {
        Tokenizer::eot(self)
    }

    fn hash(&self) -> &str {
        Tokenizer::hash(self)
    }

    fn cuttable(&self, special: bool) -> bool {
        Tokenizer::cuttable(self, special)
    }
}
