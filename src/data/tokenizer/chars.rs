//! Character tokenizers, as in nanoGPT's `shakespeare_char`: the distinct characters of the text, sorted, are ids 0..n.
//!
//! A character that the vocabulary lacks is an error, never a silent gap.

use std::collections::BTreeSet;

use super::END_OF_TEXT;
use crate::error::{Error, Result};

/// A character vocabulary.
pub(super) struct Chars {
    /// Sorted, distinct; the id is the index.
    pub chars: Vec<char>,
    /// `<|endoftext|>`, if it is there: the id after the last character.
    pub eot: Option<u32>,
}

impl Chars {
    pub fn new(chars: &BTreeSet<char>, with_eot: bool) -> Self {
        let eot = with_eot.then_some(chars.len() as u32);
        Chars { chars: chars.iter().copied().collect(), eot }
    }

    pub fn vocab_size(&self) -> usize {
        self.chars.len() + usize::from(self.eot.is_some())
    }

    pub fn encode(&self, text: &str, special: bool, out: &mut Vec<u32>) -> Result<()> {
        let start = out.len();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if special
                && let Some(eot) = self.eot
                && let Some(after) = rest.strip_prefix(END_OF_TEXT)
            {
                out.push(eot);
                rest = after;
                continue;
            }
            let Ok(id) = self.chars.binary_search(&c) else {
                out.truncate(start);
                let message = format!(
                    "the character {c:?} (U+{:04X}) at byte {} is not among the {} of this character tokenizer; \
                     use a tokenizer made from a text that has it, or `bytes` or `gpt2`",
                    u32::from(c),
                    text.len() - rest.len(),
                    self.chars.len()
                );
                return Err(Error::data("the text", message));
            };
            out.push(id as u32);
            rest = &rest[c.len_utf8()..];
        }
        Ok(())
    }

    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        match self.chars.get(id as usize) {
            Some(c) => Some(c.to_string().into_bytes()),
            None => (self.eot == Some(id)).then(|| END_OF_TEXT.into()),
        }
    }
}
