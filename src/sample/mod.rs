//! Generation: a prompt in, text out, through the key-value cache.

mod batch;
mod candidates;
pub mod config;
pub mod conversation;
mod descending;
mod output;
pub mod sampler;
pub mod session;

pub use batch::{Event, generate_all};
pub use conversation::{Answer, Conversation};
pub use sampler::{Choice, SamplerConfig};
pub use session::Session;

use serde::Serialize;

use crate::arch::ModelConfig;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::model::Gpt;
use crate::nn::Cache;
use crate::tape::Params;
use crate::tensor::Tensor;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// As many tokens as were asked for, or as the context holds.
    Length,
    /// The model wrote end-of-text.
    Eos,
    /// A stop string appeared.
    Stop,
}

/// One generated text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// The prompt as given.
    pub prompt: String,
    /// The new token ids, without the prompt's and without end-of-text.
    pub tokens: Vec<u32>,
    /// The new text.
    pub text: String,
    /// The log-probability of each new token, in nats.
    pub logprobs: Vec<f64>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The text to continue; empty starts a new document.
    pub prompt: &'a str,
    /// The most new tokens.
    pub max_new_tokens: usize,
    /// The text ends before any of these.
    pub stop: &'a [String],
    /// How tokens are chosen.
    pub sampler: &'a SamplerConfig,
    /// The number of this sample: samples of one seed differ by it.
    pub sample: u64,
}

/// The tokens a prompt starts with. An empty prompt starts a document: with end-of-text where the tokenizer has it, else
/// with a line break, else with the first token.
///
/// # Errors
/// If the prompt holds a character that the tokenizer does not know.
pub fn prompt_tokens(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let tokens = tokenizer.encode(prompt, false)?;
    if !tokens.is_empty() {
        return Ok(tokens);
    }
    if let Some(eot) = tokenizer.eot() {
        return Ok(vec![eot]);
    }
    Ok(tokenizer.encode("\n", false).ok().filter(|ids| !ids.is_empty()).unwrap_or_else(|| vec![0]))
}

/// Generates one text with the key-value cache, calling `on_text` with each piece of it as soon as it is whole UTF-8.
///
/// # Errors
/// If the prompt leaves no room in the context, the vocabularies do not fit, or the model has diverged.
pub fn generate(
    model: &Gpt,
    params: &Params,
    tokenizer: &Tokenizer,
    request: &Request<'_>,
    on_text: &mut dyn FnMut(&str),
) -> Result<Sample> {
    let mut cached = Cached::new(model, params, request.max_new_tokens);
    generate_by(model.config(), tokenizer, request, &mut |history| cached.logits(history), on_text)
}

/// The logits after a growing history, through a key-value cache that is made for one generation.
#[derive(Debug)]
pub struct Cached<'m> {
    model: &'m Gpt,
    params: &'m Params,
    max_new_tokens: usize,
    cache: Option<Cache>,
}

impl<'m> Cached<'m> {
    /// Nothing computed yet; the cache is made for the first history and `max_new_tokens` more.
    pub fn new(model: &'m Gpt, params: &'m Params, max_new_tokens: usize) -> Cached<'m> {
        Cached { model, params, max_new_tokens, cache: None }
    }

    /// The logits `[V]` after `history`, which begins with that of the call before.
    ///
    /// # Errors
    /// If a token is outside the vocabulary, or memory or the device fails.
    pub fn logits(&mut self, history: &[u32]) -> Result<Vec<f32>> {
        let cache = match &mut self.cache {
            Some(cache) => cache,
            none => {
                let config = self.model.config();
                let capacity = history.len().saturating_add(self.max_new_tokens).min(config.context_length);
                none.insert(Cache::new(config, 1, capacity, self.params.flat().device(), self.params.compute_dtype())?)
            }
        };
        let new = &history[cache.len()..];
        let logits = self.model.decode(self.params, &Tensor::from_u32(new, &[1, new.len()])?, cache)?;
        logits.to_vec_f32()
    }
}

/// Generates one text by whatever computes the logits `[V]` after the tokens so far: see [`generate`].
///
/// # Errors
/// Those of [`generate`] and of `logits_after`.
pub fn generate_by(
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    request: &Request<'_>,
    logits_after: &mut dyn FnMut(&[u32]) -> Result<Vec<f32>>,
    on_text: &mut dyn FnMut(&str),
) -> Result<Sample> {
    let mut session = Session::of_request(tokenizer, request, config.context_length, false)?;
    while session.finish().is_none() {
        let step = session.advance(&logits_after(session.window())?)?;
        if !step.text.is_empty() {
            on_text(&step.text);
        }
    }
    Ok(session.into_sample(request.prompt))
}
