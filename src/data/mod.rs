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
pub mod loader;
pub mod packed;
pub mod prepare;
pub mod shards;
pub mod text;
pub mod tokenizer;

pub use batch::{Batch, IGNORE};
pub use chat::conversation::Conversations;
pub use chat::{ChatTemplate, Message};
pub use loader::{Loader, Sequences, Window, eval_windows};
pub use packed::Packed;
pub use prepare::{PrepareOptions, prepare, prepare_sources};
pub use shards::inspect::{Inspection, inspect};
pub use shards::manifest::Manifest;
pub use shards::shard::{Layout, Shard, ShardFormat};
pub use shards::stream::TokenStream;
pub use shards::{ShardOptions, Shards, Split};
pub use text::corpus::{CARGO_SOURCES, Corpus};
pub use text::inputs::{Remote, Source};
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

    /// Whether a long document may be encoded in pieces cut by [`text::pieces::next_cut`] with the ids of the whole:
    /// true for bytes, characters and every tokenizer that first splits text as GPT-2 (or a descendant) does, without a
    /// normalizer. Where it is false, documents are held and encoded whole, and memory grows with the longest document.
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
