//! Decoding: the logits after growing sequences, many of them side by side.
//!
//! A [`Decode`] holds some slots, each with the key-value cache of one sequence. What a sequence's logits are depends on its
//! own tokens and on how they were fed (a prompt in one call, then one token a call), never on what stands in the other
//! slots: a text is the same whatever is generated next to it.

pub mod cpu;
mod gpu;
mod tensors;

pub use cpu::Cpu;
pub use gpu::OnGpu;
pub use tensors::Tensors;

use crate::arch::ModelConfig;
use crate::error::{Error, Result};
use crate::ops::candidates::Candidates;

/// In which numbers [`Cpu`] keeps the weights of matrices and embeddings. Norms, biases and learned positions stay fp32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// 32-bit floats.
    Fp32,
    /// bfloat16; activations, products and sums are fp32.
    Bf16,
    /// IEEE half precision; activations, products and sums are fp32.
    Fp16,
    /// ggml's `q8_0`: 8-bit numbers with an fp16 scale for each block of 32. Activations are rounded to 8 bits as well.
    Q8_0,
    /// ggml's `q4_0`: 4-bit numbers with an fp16 scale for each block of 32; activations as for `q8_0`.
    Q4_0,
}

impl WeightFormat {
    /// The name in messages and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            WeightFormat::Fp32 => "fp32",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::Fp16 => "fp16",
            WeightFormat::Q8_0 => "q8_0",
            WeightFormat::Q4_0 => "q4_0",
        }
    }

    /// Whether blocks of weights share a scale.
    pub fn is_quantised(self) -> bool {
        matches!(self, WeightFormat::Q8_0 | WeightFormat::Q4_0)
    }
}

/// In which numbers [`Cpu`] keeps keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheFormat {
    /// 32-bit floats.
    #[default]
    Fp32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    Fp16,
    /// 8-bit numbers with an fp32 scale for each head of each token.
    Int8,
}

impl CacheFormat {
    /// The name in messages and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            CacheFormat::Fp32 => "fp32",
            CacheFormat::Bf16 => "bf16",
            CacheFormat::Fp16 => "fp16",
            CacheFormat::Int8 => "int8",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            CacheFormat::Fp32 => 4,
            CacheFormat::Bf16 | CacheFormat::Fp16 => 2,
            CacheFormat::Int8 => 1,
        }
    }
}

/// Tokens to add to the sequence in a slot.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// Which sequence, below [`Decode::slots`].
    pub slot: usize,
    /// What follows it: a prompt, or the token chosen last. Never empty.
    pub tokens: &'a [u32],
}

/// Something that computes next-token logits for several sequences at once.
pub trait Decode: Send {
    /// The model's shape.
    fn config(&self) -> &ModelConfig;

    /// How many sequences can stand side by side.
    fn slots(&self) -> usize;

    /// The most tokens a slot can hold, at most the model's `context_length`.
    fn capacity(&self) -> usize;

    /// Tokens in a slot.
    fn len(&self, slot: usize) -> usize;

    /// Forgets the tokens of a slot from the `len`-th on, so that another continuation can follow; 0 empties it.
    fn truncate(&mut self, slot: usize, len: usize);

    /// Adds tokens to the sequences of some slots (each at most once) and writes the logits after the last of each to
    /// `logits`, f32 [feeds, V] in the order of `feeds`; what it held before is lost.
    ///
    /// # Errors
    /// If a slot does not exist or is named twice, a token is outside the vocabulary, a sequence would outgrow
    /// [`Decode::capacity`] (nothing has changed then), or memory or the device fails.
    fn feed(&mut self, feeds: &[Feed<'_>], logits: &mut Vec<f32>) -> Result<()>;

    /// The engine as one that prepares the choice of a token where the logits are; None if it cannot.
    fn selecting(&mut self) -> Option<&mut dyn Select> {
        None
    }
}

/// An engine whose logits stay on a device: only what a sampler needs of them comes to the host.
pub trait Select: Decode {
    /// [`Decode::feed`], with the candidates of each feed's row in place of its logits: of the first `vocabulary` ids, with
    /// `temperatures` `[feeds]`.
    ///
    /// # Errors
    /// As [`Decode::feed`].
    fn feed_candidates(
        &mut self,
        feeds: &[Feed<'_>],
        vocabulary: usize,
        temperatures: &[f64],
    ) -> Result<Vec<Candidates>>;

    /// The logits `[V]` after the last tokens of feed number `index` of the last call, for a choice that the candidates
    /// do not decide.
    ///
    /// # Errors
    /// If the device fails.
    fn logits_of(&mut self, index: usize) -> Result<Vec<f32>>;
}

/// What every engine refuses before it touches its caches.
///
/// # Errors
/// See [`Decode::feed`].
pub fn check(engine: &dyn Decode, feeds: &[Feed<'_>]) -> Result<()> {
    let wrong = |message: String| Err(Error::Training(message));
    for (index, feed) in feeds.iter().enumerate() {
        if feed.slot >= engine.slots() {
            return wrong(format!("slot {} does not exist: there are {}", feed.slot, engine.slots()));
        }
        if feeds[..index].iter().any(|other| other.slot == feed.slot) {
            return wrong(format!("slot {} is fed twice at once", feed.slot));
        }
        if feed.tokens.is_empty() {
            return wrong(format!("slot {} is fed nothing", feed.slot));
        }
        let vocabulary = engine.config().vocab_size;
        if let Some(token) = feed.tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return wrong(format!("token {token} is outside the vocabulary of {vocabulary}"));
        }
        let len = engine.len(feed.slot) + feed.tokens.len();
        if len > engine.capacity() {
            return wrong(format!("{len} tokens do not fit a context of {}", engine.capacity()));
        }
    }
    Ok(())
}
