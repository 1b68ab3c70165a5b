//! Which tokens make up which sequence: a pure function of (seed, position), with no state to save.
//!
//! A stream of N tokens is cut into windows of T inputs, one after the other; the target of each input is the next token,
//! so the last target of a window is the first input of the next, and n = (N - 1) / T windows have all their targets. The
//! sequences of a run are numbered from 0 on; number `i` is window `order(i mod n)` of epoch `i / n`, where `order` is the
//! identity or a permutation drawn for (seed, epoch). So the whole position of the data is that one number, whichever
//! batch size, accumulation or number of GPUs reads it.

use std::sync::Arc;

use crate::data::stream::TokenStream;
use crate::error::{Error, Result};
use crate::random::Permutation;

/// Sequences of a token stream for training.
#[derive(Clone, Debug)]
pub struct Loader {
    stream: Arc<TokenStream>,
    context_length: usize,
    shuffle: bool,
    seed: u64,
    sequences: u64,
}

impl Loader {
    /// Sequences of `context_length` inputs, in order or shuffled by `seed`.
    ///
    /// # Errors
    /// `Usage` if the stream is shorter than one sequence and its last target.
    pub fn new(stream: Arc<TokenStream>, context_length: usize, shuffle: bool, seed: u64) -> Result<Loader> {
        assert!(context_length > 0, "a sequence has inputs");
        let (have, need) = (stream.len(), context_length as u64 + 1);
        if have < need {
            return Err(Error::usage(format!(
                "the training text has {have} tokens, but one sequence needs {need} (model.context_length + 1): \
                 give more text, hold out less (data.val_fraction), or set a smaller model.context_length",
            )));
        }
        let sequences = (have - 1) / context_length as u64;
        Ok(Loader { stream, context_length, shuffle, seed, sequences })
    }

    /// How many sequences an epoch has.
    pub fn sequences_per_epoch(&self) -> u64 {
        self.sequences
    }

    /// How many tokens at the end fill no sequence, so that training never sees them as targets.
    pub fn leftover_tokens(&self) -> u64 {
        self.stream.len() - 1 - self.sequences * self.context_length as u64
    }

    /// Inputs of a sequence.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The tokens underneath.
    pub fn stream(&self) -> &Arc<TokenStream> {
        &self.stream
    }

    /// The position in the stream of the first token of sequence `index`.
    pub fn start_of(&self, index: u64) -> u64 {
        let (epoch, place) = (index / self.sequences, index % self.sequences);
        let window = if self.shuffle { Permutation::new(self.sequences, self.seed, epoch).at(place) } else { place };
        window * self.context_length as u64
    }

    /// Copies sequence `index` of the run into `out`: `context_length` inputs and one more token, so that inputs are
    /// `out[..T]` and targets `out[1..]`.
    ///
    /// # Panics
    /// If `out` is not of `context_length + 1` tokens.
    pub fn fill(&self, index: u64, out: &mut [u32]) -> Result<()> {
        assert_eq!(out.len(), self.context_length + 1, "a sequence has one more token than inputs");
        self.stream.read(self.start_of(index), out)
    }
}

/// A window of an evaluation: `inputs` tokens from `start` on, and as many targets from `start + 1` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The position of the first input.
    pub start: u64,
    /// How many inputs: the context length, fewer in the last window.
    pub inputs: usize,
}

/// The windows of an evaluation over `tokens` tokens: consecutive, `context_length` inputs each, the final shorter one
/// included, so that N tokens make N - 1 predictions, each token but the first predicted once.
pub fn eval_windows(tokens: u64, context_length: usize) -> impl ExactSizeIterator<Item = Window> + Clone {
    assert!(context_length > 0, "a window has inputs");
    let predictions = tokens.saturating_sub(1);
    let count = predictions.div_ceil(context_length as u64) as usize;
    (0..count).map(move |i| {
        let start = i as u64 * context_length as u64;
        Window { start, inputs: (predictions - start).min(context_length as u64) as usize }
    })
}
