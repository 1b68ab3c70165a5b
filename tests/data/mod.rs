//! Text in, shards and sequences out. The expected bytes are laid out by hand in the tests, from the published
//! descriptions of the formats; the expected tokens come from tiktoken's r50k and from a byte encoder.

mod command;
mod inputs;
mod layouts;
mod loader;
mod pieces;
mod preparing;
mod restart;

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use taper::data::Encode;
use taper::{Error, Result};

/// One id a byte, 256 between documents.
struct Bytes;

const EOT: u32 = 256;

impl Encode for Bytes {
    fn encode_into(&self, text: &str, _: bool, ids: &mut Vec<u32>) -> Result<()> {
        ids.extend(text.bytes().map(u32::from));
        Ok(())
    }
    fn vocab_size(&self) -> usize {
        257
    }
    fn eot(&self) -> Option<u32> {
        Some(EOT)
    }
    fn hash(&self) -> &str {
        "bytes"
    }
}

/// One id a character, without an end-of-text token and beyond 16 bits.
struct Chars;

impl Encode for Chars {
    fn encode_into(&self, text: &str, _: bool, ids: &mut Vec<u32>) -> Result<()> {
        ids.extend(text.chars().map(u32::from));
        Ok(())
    }
    fn vocab_size(&self) -> usize {
        0x11_0000
    }
    fn eot(&self) -> Option<u32> {
        None
    }
    fn hash(&self) -> &str {
        "chars"
    }
}

/// GPT-2's tokenizer, by tiktoken.
struct Gpt2;

impl Encode for Gpt2 {
    fn encode_into(&self, text: &str, special: bool, ids: &mut Vec<u32>) -> Result<()> {
        let bpe = tiktoken_rs::r50k_base_singleton();
        ids.extend(if special { bpe.encode_with_special_tokens(text) } else { bpe.encode_ordinary(text) });
        Ok(())
    }
    fn vocab_size(&self) -> usize {
        50257
    }
    fn eot(&self) -> Option<u32> {
        Some(50256)
    }
    fn hash(&self) -> &str {
        "gpt2"
    }
}

/// Bytes that stop working after so many pieces, as a kill would.
struct Failing(AtomicI64);

impl Encode for Failing {
    fn encode_into(&self, text: &str, special: bool, ids: &mut Vec<u32>) -> Result<()> {
        if self.0.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Err(Error::Training("killed by the test".into()));
        }
        Bytes.encode_into(text, special, ids)
    }
    fn vocab_size(&self) -> usize {
        Bytes.vocab_size()
    }
    fn eot(&self) -> Option<u32> {
        Bytes.eot()
    }
    fn hash(&self) -> &str {
        Bytes.hash()
    }
}

fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> String {
    let path = path.as_ref();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    path.display().to_string()
}

/// Fails unless the message of an error holds every one of `parts`.
fn says<T>(result: Result<T>, parts: &[&str]) {
    let message = match result {
        Ok(_) => panic!("an error saying {parts:?} was expected"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

/// Text with some variety: words, numbers, punctuation, lines; a pure function of `seed`.
fn prose(seed: u64, bytes: usize) -> String {
    let words =
        ["the", " sea's", " 1851", "\n\n", " Ahab", ", and", "  whale", " naïve", "！", " don't", ".\n", " 鯨", "\t"];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = String::from("Loomings");
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(words[(state >> 33) as usize % words.len()]);
    }
    text
}
