//! Decoding token by token, for text that appears while it is sampled.
//!
//! A token may end in the middle of a UTF-8 character. The decoder holds such bytes back until the rest arrives, so what
//! it has returned is always whole characters, and all of it together is exactly what [`Tokenizer::decode`] gives at once.

use super::{Engine, Tokenizer};

/// See the module's story. Ids that the vocabulary lacks (a model may have more rows than its tokenizer) become U+FFFD.
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Bytes of a character that is not whole yet (byte-exact vocabularies).
    pending: Vec<u8>,
    /// Recent ids, and how many of them are told already (other vocabularies, whose tokens depend on their neighbours).
    recent: Vec<u32>,
    told: usize,
}

impl<'a> StreamDecoder<'a> {
    /// A decoder at the beginning of a text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        StreamDecoder { tokenizer, pending: Vec::new(), recent: Vec::new(), told: 0 }
    }

    /// Takes the next id and returns the text that is certain now: possibly none.
    pub fn push(&mut self, id: u32) -> String {
        if let Engine::Foreign(_) = &self.tokenizer.inner.engine {
            self.recent.push(id);
            return self.foreign(false);
        }
        match self.tokenizer.token_bytes(id) {
            Some(bytes) => self.pending.extend(bytes),
            None => self.pending.extend("\u{fffd}".bytes()),
        }
        self.whole_characters()
    }

    /// Returns what is held back, an unfinished character as U+FFFD, and starts anew.
    pub fn finish(&mut self) -> String {
        if let Engine::Foreign(_) = &self.tokenizer.inner.engine {
            let rest = self.foreign(true);
            self.recent.clear();
            self.told = 0;
            return rest;
        }
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }

    /// Takes the whole characters from `pending`, what can never become one as U+FFFD.
    fn whole_characters(&mut self) -> String {
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            let at_end = done + chunk.valid().len() + chunk.invalid().len() == self.pending.len();
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let unfinished = std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
            if at_end && unfinished {
                break;
            }
            if !chunk.invalid().is_empty() {
                text.push('\u{fffd}');
                done += chunk.invalid().len();
            }
        }
        self.pending.drain(..done);
        text
    }

    /// The text that the newest ids add to that of the ids before them, once it does not end in a broken character.
    fn foreign(&mut self, last: bool) -> String {
        let decode = |ids: &[u32]| self.tokenizer.decode_known(ids);
        let (before, now) = (decode(&self.recent[..self.told]), decode(&self.recent));
        if now.ends_with('\u{fffd}') && !last {
            return String::new();
        }
        let common = before.chars().zip(now.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let new = now[common..].to_string();
        // One told id stays as context: decoders strip or keep a blank by what stands before.
        self.recent.drain(..self.told.min(self.recent.len().saturating_sub(1)));
        self.told = self.recent.len();
        new
    }
}
