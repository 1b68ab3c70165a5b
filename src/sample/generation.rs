//! One text under way: what to compute next, and what became of the last logits.

use super::{FinishReason, Request, Sample, prompt_tokens};
use crate::data::tokenizer::{StreamDecoder, Tokenizer};
use crate::error::{Error, Result};
use crate::model::ModelConfig;

/// A text that is being written. Whoever drives it computes the logits after [`Generation::window`] and hands them to
/// [`Generation::accept`] until it is finished.
pub struct Generation<'a> {
    tokenizer: &'a Tokenizer,
    request: Request<'a>,
    /// Ids that have text, and the longest window.
    vocabulary: usize,
    context: usize,
    history: Vec<u32>,
    prompt: usize,
    /// The first token of `history` that the model still sees.
    start: usize,
    limit: usize,
    slide: bool,
    decoder: StreamDecoder<'a>,
    out: Output<'a>,
    logprobs: Vec<f64>,
    finish: Option<FinishReason>,
}

impl<'a> Generation<'a> {
    /// A text at its beginning. `slide`: at the end of the context the older half is dropped, and the text goes on.
    ///
    /// # Errors
    /// If the prompt does not fit the context, or holds a character that the tokenizer does not know.
    pub fn new(config: &ModelConfig, tokenizer: &'a Tokenizer, request: Request<'a>, slide: bool) -> Result<Self> {
        let context = config.context_length;
        let history = prompt_tokens(tokenizer, request.prompt)?;
        if history.len() > context {
            return Err(Error::usage(format!(
                "the prompt has {} tokens, and the model's context holds {context}; shorten it",
                history.len()
            )));
        }
        // The last new token need not be fed back, so one more than the context's rest can be written.
        let room = if slide && context > 1 { usize::MAX } else { context + 1 - history.len() };
        let limit = request.max_new_tokens.min(room);
        let out = Output { text: String::new(), shown: 0, stop: request.stop };
        Ok(Generation {
            tokenizer,
            vocabulary: tokenizer.vocab_size().min(config.vocab_size),
            context,
            prompt: history.len(),
            history,
            start: 0,
            limit,
            slide,
            decoder: StreamDecoder::new(tokenizer),
            out,
            logprobs: Vec::new(),
            finish: (limit == 0).then_some(FinishReason::Length),
            request,
        })
    }

    /// All tokens so far, the prompt's included.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// The tokens that the next logits follow: all of them, unless the text has slid.
    pub fn window(&self) -> &[u32] {
        &self.history[self.start..]
    }

    /// Where the window starts in the history. Once this grows, all of the window is to be read again.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Whether the text is at its end.
    pub fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    /// Chooses the next token by the logits [V] after the window; calls `on_text` with text that is certain now.
    ///
    /// # Errors
    /// If the model has diverged.
    pub fn accept(&mut self, logits: &[f32], on_text: &mut dyn FnMut(&str)) -> Result<()> {
        // Ids beyond the tokenizer's are padding of the vocabulary: they have no text.
        let logits = &logits[..self.vocabulary];
        let position = (self.history.len() - self.prompt) as u64;
        let choice = self.request.sampler.choose(logits, &self.history, self.request.sample, position)?;
        if Some(choice.token) == self.tokenizer.eot() {
            self.end(FinishReason::Eos, on_text);
            return Ok(());
        }
        self.history.push(choice.token);
        self.logprobs.push(choice.logprob);
        if self.out.push(&self.decoder.push(choice.token), on_text) {
            self.end(FinishReason::Stop, on_text);
        } else if self.logprobs.len() == self.limit {
            self.end(FinishReason::Length, on_text);
        } else if self.slide && self.window().len() > self.context {
            self.start = self.history.len() - self.context.div_ceil(2);
        }
        Ok(())
    }

    fn end(&mut self, reason: FinishReason, on_text: &mut dyn FnMut(&str)) {
        let stopped = reason != FinishReason::Stop && self.out.push(&self.decoder.finish(), on_text);
        self.out.flush(on_text);
        self.finish = Some(if stopped { FinishReason::Stop } else { reason });
    }

    /// The text as far as it has come.
    pub fn into_sample(self) -> Sample {
        Sample {
            prompt: self.request.prompt.to_string(),
            tokens: self.history[self.prompt..].to_vec(),
            text: self.out.text,
            logprobs: self.logprobs,
            finish_reason: self.finish.unwrap_or(FinishReason::Length),
        }
    }
}

/// Text so far, shown up to where a stop string might still begin.
struct Output<'a> {
    text: String,
    shown: usize,
    stop: &'a [String],
}

impl Output<'_> {
    /// Appends a piece; true if a stop string appeared (the text is cut before it).
    fn push(&mut self, piece: &str, on_text: &mut dyn FnMut(&str)) -> bool {
        self.text.push_str(piece);
        let found = self
            .stop
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| self.text[self.shown..].find(stop))
            .min();
        if let Some(place) = found {
            self.text.truncate(self.shown + place);
            return true;
        }
        // Hold back a tail that could be the beginning of a stop string.
        let tail = &self.text[self.shown..];
        let held = tail
            .char_indices()
            .map(|(at, _)| at)
            .find(|&at| self.stop.iter().any(|stop| stop.starts_with(&tail[at..])));
        let end = self.shown + held.unwrap_or(tail.len());
        self.show(end, on_text);
        false
    }

    fn flush(&mut self, on_text: &mut dyn FnMut(&str)) {
        self.show(self.text.len(), on_text);
    }

    fn show(&mut self, end: usize, on_text: &mut dyn FnMut(&str)) {
        if end > self.shown {
            on_text(&self.text[self.shown..end]);
            self.shown = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_strings_are_never_shown_even_in_pieces() {
        let stop = ["\n\n".to_string(), "END".to_string()];
        let mut out = Output { text: String::new(), shown: 0, stop: &stop };
        let mut shown = String::new();
        let mut stopped = false;
        for piece in ["one\n", "two E", "N", "O\n", "\nthree"] {
            stopped = out.push(piece, &mut |text| shown.push_str(text));
            assert!(!shown.ends_with('E') && !shown.ends_with("EN"));
        }
        assert!(stopped);
        out.flush(&mut |text| shown.push_str(text));
        assert_eq!(shown, "one\ntwo ENO");
    }
}
