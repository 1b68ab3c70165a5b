//! Tokenizers: text to ids and back.
//!
//! One type, [`Tokenizer`], for every kind: GPT-2's vocabulary (embedded in the binary), plain bytes, characters, BPE
//! vocabularies trained here, and any Hugging Face `tokenizer.json`. Byte-level BPE files with GPT-2's split pattern, which
//! is most of what GPT-like models use, run on our own encoder (`bpe`); all others on the `tokenizers` crate.
//!
//! What is unusual: a tokenizer has one *canonical* `tokenizer.json`, the bytes that [`Tokenizer::save`] writes, and
//! [`Tokenizer::hash`] is their SHA-256. Equal hashes mean equal ids, wherever the tokenizer came from: GPT-2's file as
//! others write it and the embedded one have the same hash. And a special token spelled out in a text
//! (`<|endoftext|>`) is ordinary text unless the caller says otherwise, so no text can forge a document boundary.

mod alphabet;
mod bpe;
mod cache;
mod chars;
pub mod config;
mod count;
mod file;
mod gpt2;
mod heap;
mod save;
mod short;
mod split;
mod stream;
mod train;

pub use stream::StreamDecoder;
pub use train::{Ties, train_bpe, train_bpe_with};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use bpe::{Added, Bpe};
use chars::Chars;
use file::Foreign;

/// The token between documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Pieces of this many bytes make work for several threads, and bound what one of them holds.
const PIECE: usize = 1 << 18;

/// A vocabulary with its encoder; cheap to clone, and shared between threads. See the module's story.
///
/// ```
/// use taper::data::Tokenizer;
///
/// let tokenizer = Tokenizer::gpt2()?;
/// let ids = tokenizer.encode("Hello world", false)?;
/// assert_eq!(ids, [15496, 995]);
/// assert_eq!(tokenizer.decode(&ids)?, "Hello world");
/// assert_eq!((tokenizer.vocab_size(), tokenizer.eot()), (50_257, Some(50_256)));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    /// The chat template that its folder is to have.
    chat_template: Option<Arc<str>>,
}

struct Inner {
    engine: Engine,
    kind: &'static str,
    eot: Option<u32>,
    /// The tokenizer_config.json that came with a folder: kept, so that saving loses nothing.
    config: Option<serde_json::Map<String, serde_json::Value>>,
    canonical: OnceLock<Canonical>,
}

/// The bytes of tokenizer.json and their SHA-256 in hex.
struct Canonical {
    json: String,
    hash: String,
}

enum Engine {
    Bpe(Box<Bpe>),
    Chars(Chars),
    Foreign(Box<Foreign>),
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("kind", &self.kind()).field("vocab_size", &self.vocab_size()).finish()
    }
}

impl Tokenizer {
    /// GPT-2's tokenizer: 50,257 ids, `<|endoftext|>` = 50256. Embedded; built once per process.
    pub fn gpt2() -> Result<Self> {
        static GPT2: OnceLock<Tokenizer> = OnceLock::new();
        match GPT2.get() {
            Some(known) => Ok(known.clone()),
            None => gpt2::build().map(|built| GPT2.get_or_init(|| built).clone()),
        }
    }

    /// Bytes as ids: 0 to 255, and 256 = `<|endoftext|>`.
    pub fn bytes() -> Self {
        let mut tokens: Vec<Option<Box<[u8]>>> = (0..=255u8).map(|b| Some(Box::from([b]))).collect();
        tokens.push(Some(END_OF_TEXT.as_bytes().into()));
        let added = vec![Added { content: END_OF_TEXT.into(), id: 256, special: true }];
        let byte_ids = std::array::from_fn(|b| b as u32);
        Self::from_bpe(Bpe::new(tokens, Vec::new(), added, byte_ids), "bytes", Some(256))
    }

    /// The distinct characters of `texts`, sorted, as ids from 0 (nanoGPT's character level); with `with_eot`, which a
    /// text of several documents needs, `<|endoftext|>` follows as the last id. No characters at all are an error.
    pub fn chars<'a>(texts: impl Iterator<Item = &'a str>, with_eot: bool) -> Result<Self> {
        let mut set = BTreeSet::new();
        for text in texts {
            let mut ascii = [false; 128];
            for c in text.chars() {
                match ascii.get_mut(c as usize) {
                    Some(seen) => *seen = true,
                    None => drop(set.insert(c)),
                }
            }
            set.extend((0..128u8).filter(|&b| ascii[b as usize]).map(char::from));
        }
        Self::from_chars(&set, with_eot)
    }

    /// As [`Tokenizer::chars`], from a set gathered by the caller (for texts too large to hold).
    pub fn from_chars(chars: &BTreeSet<char>, with_eot: bool) -> Result<Self> {
        if chars.is_empty() {
            return Err(Error::usage(
                "a character tokenizer needs a text with at least one character; the text is empty",
            ));
        }
        let chars = Chars::new(chars, with_eot);
        let eot = chars.eot;
        Ok(Self::from_engine(Engine::Chars(chars), "chars", eot, None))
    }

    /// `gpt2`, `bytes`, a folder with a tokenizer.json, or a tokenizer.json; anything else is a usage error.
    pub fn from_name_or_path(name: &str) -> Result<Self> {
        match name {
            "gpt2" => Self::gpt2(),
            "bytes" => Ok(Self::bytes()),
            path if Path::new(path).exists() => Self::from_file(Path::new(path)),
            _ => Err(Error::usage(format!(
                "there is no tokenizer named {name:?} and no such file or folder; give gpt2, bytes, a tokenizer.json, \
                 or a folder that holds one"
            ))),
        }
    }

    /// The number of ids of the tokenizer that [`Tokenizer::from_name_or_path`] would open, without making its tables:
    /// of a file only the ids are read.
    ///
    /// # Errors
    /// `Usage` for a name that stands for nothing; `Data` and `Io` for a file that cannot be read.
    pub fn vocab_size_of(name: &str) -> Result<usize> {
        match name {
            "gpt2" => Ok(gpt2::VOCAB_SIZE),
            path if Path::new(path).exists() => file::vocab_size(Path::new(path)),
            name => Ok(Self::from_name_or_path(name)?.vocab_size()),
        }
    }

    fn from_bpe(bpe: Bpe, kind: &'static str, eot: Option<u32>) -> Self {
        Self::from_engine(Engine::Bpe(Box::new(bpe)), kind, eot, None)
    }

    fn from_engine(
        engine: Engine,
        kind: &'static str,
        eot: Option<u32>,
        config: Option<serde_json::Map<String, serde_json::Value>>,
    ) -> Self {
        Tokenizer {
            inner: Arc::new(Inner { engine, kind, eot, config, canonical: OnceLock::new() }),
            chat_template: None,
        }
    }

    /// The same vocabulary under another name of its kind.
    fn with_kind(self, kind: &'static str) -> Self {
        self.change(|inner| inner.kind = kind)
    }

    /// The same vocabulary with the tokenizer_config.json that came with it.
    fn with_config(self, config: Option<serde_json::Map<String, serde_json::Value>>) -> Self {
        self.change(|inner| inner.config = config)
    }

    /// The same tokenizer, whose tokenizer_config.json says this chat template.
    pub fn with_chat_template(self, source: &str) -> Self {
        Tokenizer { chat_template: Some(source.into()), ..self }
    }

    /// Changes a tokenizer that is not shared yet.
    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            change(inner);
        }
        self
    }

    /// The ids of `text`. Special tokens spelled out in it are ordinary text unless `special`. Nothing is added before or
    /// after. An error only if the vocabulary cannot express the text (a character tokenizer without one of its characters).
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let mut out = Vec::with_capacity(text.len() / 3);
        self.encode_into(text, special, &mut out)?;
        Ok(out)
    }

    /// As [`Tokenizer::encode`], appended to `out`, which an error leaves as it was.
    pub fn encode_into(&self, text: &str, special: bool, out: &mut Vec<u32>) -> Result<()> {
        match &self.inner.engine {
            Engine::Bpe(bpe) => {
                bpe.encode(text, special, out);
                Ok(())
            }
            Engine::Chars(chars) => chars.encode(text, special, out),
            Engine::Foreign(foreign) => foreign.encode(text, special, out),
        }
    }

    /// As [`Tokenizer::encode`], on all threads of the current rayon pool where the tokenizer allows it.
    pub fn encode_parallel(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let pieces: Vec<&str> = self.pieces(text, PIECE, special).collect();
        if pieces.len() < 2 || matches!(self.inner.engine, Engine::Chars(_)) {
            return self.encode(text, special);
        }
        let ids: Vec<Vec<u32>> = pieces.par_iter().map(|piece| self.encode(piece, special)).collect::<Result<_>>()?;
        Ok(ids.concat())
    }

    /// Whether a text cut before white space has the ids of its pieces, one after the other: not with a token of several
    /// words, nor where the split pattern is not known.
    pub fn cuttable(&self, special: bool) -> bool {
        match &self.inner.engine {
            Engine::Bpe(bpe) => {
                !bpe.added.iter().any(|a| (special || !a.special) && a.content.contains(char::is_whitespace))
            }
            Engine::Chars(_) => true,
            Engine::Foreign(_) => false,
        }
    }

    /// Cuts `text` into pieces of about `size` bytes whose ids, one after the other, are the ids of the text. Where no safe
    /// place for a cut is known (other vocabularies than ours, a text without blanks) a piece is longer, up to the whole.
    pub fn pieces<'a>(&self, text: &'a str, size: usize, special: bool) -> impl Iterator<Item = &'a str> + use<'a> {
        split::pieces(text, if self.cuttable(special) { size } else { text.len() })
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD. An id that the vocabulary lacks is an error.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match &self.inner.engine {
            Engine::Foreign(foreign) => {
                self.check_ids(ids)?;
                foreign.decode(ids)
            }
            _ => self.decode_bytes(ids).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// The exact bytes of `ids`; for files that run on the `tokenizers` crate, the bytes of the decoded text.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        if let Engine::Foreign(foreign) = &self.inner.engine {
            self.check_ids(ids)?;
            return Ok(foreign.decode(ids)?.into_bytes());
        }
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for (position, &id) in ids.iter().enumerate() {
            match &self.inner.engine {
                Engine::Bpe(bpe) => match bpe.tokens.get(id as usize) {
                    Some(Some(token)) => bytes.extend_from_slice(token),
                    _ => return Err(self.unknown_id(id, position)),
                },
                _ => bytes.extend(self.token_bytes(id).ok_or_else(|| self.unknown_id(id, position))?),
            }
        }
        Ok(bytes)
    }

    /// The text of those of `ids` that the vocabulary has; the others become U+FFFD.
    fn decode_known(&self, ids: &[u32]) -> String {
        let runs = ids.chunk_by(|&a, &b| self.token_bytes(a).is_some() == self.token_bytes(b).is_some());
        runs.map(|run| self.decode(run).unwrap_or_else(|_| "\u{fffd}".repeat(run.len()))).collect()
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().position(|&id| self.token_bytes(id).is_none()) {
            Some(position) => Err(self.unknown_id(ids[position], position)),
            None => Ok(()),
        }
    }

    fn unknown_id(&self, id: u32, position: usize) -> Error {
        let (size, kind) = (self.vocab_size(), self.kind());
        let message =
            format!("id {id} at position {position} is not in the vocabulary (kind {kind}, ids below {size})");
        Error::data("the ids", message)
    }

    /// One more than the largest id: the rows a model needs.
    pub fn vocab_size(&self) -> usize {
        match &self.inner.engine {
            Engine::Bpe(bpe) => bpe.tokens.len(),
            Engine::Chars(chars) => chars.vocab_size(),
            Engine::Foreign(foreign) => foreign.vocab_size(),
        }
    }

    /// The id that stands between documents, if the vocabulary has one.
    pub fn eot(&self) -> Option<u32> {
        self.inner.eot
    }

    /// `gpt2`, `bytes`, `chars`, `bpe` (byte-level BPE on our encoder), or `file` (anything else, on the `tokenizers`
    /// crate).
    pub fn kind(&self) -> &str {
        self.inner.kind
    }

    /// The SHA-256, in hex, of the canonical tokenizer.json: the bytes that [`Tokenizer::save`] writes.
    pub fn hash(&self) -> &str {
        &self.canonical().hash
    }

    /// The canonical tokenizer.json: what [`Tokenizer::save`] writes.
    pub fn json(&self) -> &str {
        &self.canonical().json
    }

    /// The bytes of one token; `None` if the vocabulary lacks `id`.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        match &self.inner.engine {
            Engine::Bpe(bpe) => bpe.tokens.get(id as usize)?.as_ref().map(|bytes| bytes.to_vec()),
            Engine::Chars(chars) => chars.token_bytes(id),
            Engine::Foreign(foreign) => foreign.token_bytes(id),
        }
    }

    fn canonical(&self) -> &Canonical {
        self.inner.canonical.get_or_init(|| {
            let json = match &self.inner.engine {
                Engine::Bpe(bpe) => save::bpe_json(bpe),
                Engine::Chars(chars) => save::chars_json(chars),
                Engine::Foreign(foreign) => foreign.json.clone(),
            };
            let hash = Sha256::digest(json.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
            Canonical { json, hash }
        })
    }
}
