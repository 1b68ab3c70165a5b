//! Which tokens make up which sequence: a pure function of (seed, position), with no state to save.
//!
//! A stream of N tokens is cut into windows of T inputs, one after the other; the target of each input is the next
//! token, so the last target of a window is the first input of the next, and n = (N - 1) / T windows have all their
//! targets. The sequences of a run are numbered from 0 on; number `i` is window `order(i mod n)` of epoch `i / n`,
//! where `order` is the identity or a permutation drawn for (seed, epoch). Rows of packed conversations are numbered
//! alike. So the whole position of the data is that one number, whichever batch size, accumulation or number of GPUs
//! reads it.

use std::sync::Arc;

use crate::data::batch::Batch;
use crate::data::packed::Packed;
use crate::data::shards::stream::TokenStream;
use crate::error::{Error, Result};
use crate::random::Permutation;

/// What sequences are made of.
#[derive(Clone, Debug)]
pub enum Sequences {
    /// Windows of running text.
    Stream(Arc<TokenStream>),
    /// Rows of conversations.
    Packed(Arc<Packed>),
}

impl Sequences {
    /// Tokens of the text; of conversations, the targets that count.
    pub fn len(&self) -> u64 {
        match self {
            Sequences::Stream(stream) => stream.len(),
            Sequences::Packed(packed) => packed.targets(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Arc<TokenStream>> for Sequences {
    fn from(stream: Arc<TokenStream>) -> Sequences {
        Sequences::Stream(stream)
    }
}

/// Where a loader takes sequences from.
#[derive(Clone, Debug)]
enum Source {
    Stream(Arc<TokenStream>),
    Packed(Arc<Packed>),
    /// Rows that were made elsewhere.
    Rows(Arc<Vec<Batch>>),
}

/// Sequences for training.
///
/// ```
/// use std::sync::Arc;
/// use taper::data::{Batch, Loader, TokenStream};
///
/// let (tokens, vocab_size) = ((0..9).collect(), 16);
/// let stream = Arc::new(TokenStream::from_tokens(tokens, vocab_size));
/// let (context_length, shuffle, seed) = (4, false, 1);
/// let loader = Loader::new(stream, context_length, shuffle, seed)?;
/// let mut batch = Batch::default();
/// loader.append(1, &mut batch)?;
/// assert_eq!(loader.sequences_per_epoch(), 2);
/// assert_eq!((batch.inputs, batch.targets), (vec![4, 5, 6, 7], vec![5, 6, 7, 8]));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    source: Source,
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
    ///
    /// # Panics
    /// If conversations were packed for another length.
    pub fn new(source: impl Into<Sequences>, context_length: usize, shuffle: bool, seed: u64) -> Result<Loader> {
        assert!(context_length > 0, "a sequence has inputs");
        let stream = match source.into() {
            Sequences::Stream(stream) => stream,
            Sequences::Packed(packed) => {
                assert_eq!(packed.context_length(), context_length, "rows of another length");
                let sequences = packed.rows();
                return Ok(Loader { source: Source::Packed(packed), context_length, shuffle, seed, sequences });
            }
        };
        let (have, need) = (stream.len(), context_length as u64 + 1);
        if have < need {
            return Err(Error::usage(format!(
                "the training text has {have} tokens, but one sequence needs {need} (model.context_length + 1): \
                 give more text, hold out less (data.val_fraction), or set a smaller model.context_length",
            )));
        }
        let sequences = (have - 1) / context_length as u64;
        Ok(Loader { source: Source::Stream(stream), context_length, shuffle, seed, sequences })
    }

    /// Rows that were made elsewhere, in their order: one batch of a single row for each sequence.
    ///
    /// # Panics
    /// If there are none, or they are not of one length.
    pub fn of_rows(rows: Vec<Batch>) -> Loader {
        let context_length = rows.first().map_or(0, |row| row.inputs.len());
        assert!(context_length > 0, "a sequence has inputs");
        let fits = |len: usize, may_be_absent: bool| len == context_length || (may_be_absent && len == 0);
        let whole = |row: &Batch| {
            let needed = fits(row.inputs.len(), false) && fits(row.targets.len(), false);
            needed && fits(row.weights.len(), true) && fits(row.begins.len(), true)
        };
        assert!(rows.iter().all(whole), "rows of one length");
        let sequences = rows.len() as u64;
        Loader { source: Source::Rows(Arc::new(rows)), context_length, shuffle: false, seed: 0, sequences }
    }

    /// How many sequences an epoch has.
    pub fn sequences_per_epoch(&self) -> u64 {
        self.sequences
    }

    /// How many tokens at the end fill no sequence, so that training never sees them as targets.
    pub fn leftover_tokens(&self) -> u64 {
        match &self.source {
            Source::Stream(stream) => stream.len() - 1 - self.sequences * self.context_length as u64,
            Source::Packed(_) | Source::Rows(_) => 0,
        }
    }

    /// Inputs of a sequence.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The position in the stream of the first token of sequence `index`; for conversations, that of the row if all rows
    /// stood one after the other.
    pub fn start_of(&self, index: u64) -> u64 {
        self.window_of(index) * self.context_length as u64
    }

    /// The window or row that sequence `index` is.
    fn window_of(&self, index: u64) -> u64 {
        let (epoch, place) = (index / self.sequences, index % self.sequences);
        if self.shuffle { Permutation::new(self.sequences, self.seed, epoch).at(place) } else { place }
    }

    /// Appends sequence `index` of the run: `context_length` inputs with their targets.
    ///
    /// # Errors
    /// If the data cannot be read or holds an id outside the vocabulary.
    pub fn append(&self, index: u64, to: &mut Batch) -> Result<()> {
        match &self.source {
            Source::Stream(stream) => {
                let mut sequence = vec![0; self.context_length + 1];
                stream.read(self.start_of(index), &mut sequence)?;
                to.inputs.extend_from_slice(&sequence[..self.context_length]);
                to.targets.extend_from_slice(&sequence[1..]);
            }
            Source::Packed(packed) => packed.append(self.window_of(index), to),
            Source::Rows(rows) => to.append(&rows[self.window_of(index) as usize], self.context_length),
        }
        Ok(())
    }

    /// How many targets of sequence `index` count: all of running text, at least one of conversations.
    pub fn targets_of(&self, index: u64) -> u64 {
        match &self.source {
            Source::Stream(_) => self.context_length as u64,
            Source::Packed(packed) => packed.targets_of(self.window_of(index)),
            Source::Rows(rows) => rows[self.window_of(index) as usize].counted(),
        }
    }

    /// The weights of the targets of sequence `index` that count, added up; without weights, their number.
    pub fn weight_of(&self, index: u64) -> f64 {
        match &self.source {
            Source::Rows(rows) => rows[self.window_of(index) as usize].weight(),
            Source::Stream(_) | Source::Packed(_) => self.targets_of(index) as f64,
        }
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
