//! One text, step by step: whoever computes the logits owns the loop.
//!
//! A text that runs to its end, a chat that Ctrl-C may stop and a server that writes many texts side by side share the
//! state between two tokens: a [`Session`] takes the logits after its window and gives what is new. [`step`] does that
//! for texts in the slots of an engine.

use super::output::Output;
use super::{Choice, FinishReason, Request, Sample, SamplerConfig, prompt_tokens};
use crate::data::tokenizer::{StreamDecoder, Tokenizer};
use crate::decode::{Decode, Feed};
use crate::error::{Error, Result};
use crate::ops::candidates::Candidates;

/// What to generate after a prompt.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The most new tokens, at least 1; the context may hold fewer.
    pub max_new_tokens: usize,
    /// The text ends before any of these.
    pub stop: Vec<String>,
    /// The text ends at any of these tokens.
    pub end: Vec<u32>,
    /// How tokens are chosen.
    pub sampler: SamplerConfig,
    /// The number of this sample: samples of one seed differ by it.
    pub sample: u64,
    /// How many of the likeliest tokens are told with each chosen one.
    pub top_logprobs: usize,
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Its id.
    pub id: u32,
    /// Its log-probability in nats, of the plain softmax.
    pub logprob: f64,
    /// The likeliest tokens at its place and their log-probabilities, likeliest first.
    pub top: Vec<(u32, f64)>,
}

/// What one step brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// The token; none where the model ended the text.
    pub token: Option<Chosen>,
    /// The text that is certain now: whole characters, and nothing that could begin a stop string.
    pub text: String,
    /// Why the text is over, if it is.
    pub finish: Option<FinishReason>,
}

/// A text in the making: see the module's story.
pub struct Session<'t> {
    tokenizer: &'t Tokenizer,
    decoder: StreamDecoder<'t>,
    out: Output<'static>,
    plan: Plan,
    history: Vec<u32>,
    prompt: usize,
    limit: usize,
    /// The context, where the text may continue beyond it.
    slide: Option<usize>,
    /// The first token that the window still holds.
    start: usize,
    logprobs: Vec<f64>,
    finish: Option<FinishReason>,
}

impl<'t> Session<'t> {
    /// A text that continues `prompt` (at least one token) in a context of `capacity` tokens.
    ///
    /// # Errors
    /// `Usage` if the prompt is empty or longer than the context.
    pub fn new(tokenizer: &'t Tokenizer, prompt: Vec<u32>, capacity: usize, mut plan: Plan) -> Result<Session<'t>> {
        if prompt.is_empty() {
            return Err(Error::usage("the prompt has no tokens"));
        }
        if prompt.len() > capacity {
            return Err(Error::usage(format!(
                "the prompt has {} tokens, and the context holds {capacity}; shorten it",
                prompt.len()
            )));
        }
        // The last new token need not be fed back, so one more than the context's rest can be written.
        let limit = plan.max_new_tokens.clamp(1, capacity + 1 - prompt.len());
        let out = Output::new(std::mem::take(&mut plan.stop));
        let decoder = StreamDecoder::new(tokenizer);
        Ok(Session {
            tokenizer,
            decoder,
            out,
            plan,
            prompt: prompt.len(),
            history: prompt,
            limit,
            slide: None,
            start: 0,
            logprobs: Vec::new(),
            finish: None,
        })
    }

    /// The text of a request in a context of `context` tokens. With `slide`, the older half of a full context is dropped and
    /// the text continues; a context of one token cannot slide.
    ///
    /// # Errors
    /// If the prompt does not fit the context, or holds a character that the tokenizer does not know.
    pub fn of_request(
        tokenizer: &'t Tokenizer,
        request: &Request<'_>,
        context: usize,
        slide: bool,
    ) -> Result<Session<'t>> {
        let plan = Plan {
            max_new_tokens: request.max_new_tokens,
            stop: request.stop.to_vec(),
            end: tokenizer.eot().into_iter().collect(),
            sampler: request.sampler.clone(),
            sample: request.sample,
            top_logprobs: 0,
        };
        let mut session = Session::new(tokenizer, prompt_tokens(tokenizer, request.prompt)?, context, plan)?;
        session.slide = (slide && context > 1).then_some(context);
        if session.slide.is_some() {
            session.limit = request.max_new_tokens;
        }
        session.finish = (request.max_new_tokens == 0).then_some(FinishReason::Length);
        Ok(session)
    }

    /// The prompt's tokens and the new ones.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// What the next step's logits must have seen: the history, or what of it is left after sliding.
    pub fn window(&self) -> &[u32] {
        &self.history[self.start..]
    }

    /// The first token of the window; it grows when the text slides, and the engine must then begin anew.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Why the text is over, if it is.
    pub fn finish(&self) -> Option<FinishReason> {
        self.finish
    }

    /// The finished text, as the answer to `prompt`.
    pub fn into_sample(self, prompt: &str) -> Sample {
        Sample {
            prompt: prompt.to_string(),
            tokens: self.history[self.prompt..].to_vec(),
            text: self.out.text,
            logprobs: self.logprobs,
            finish_reason: self.finish.unwrap_or(FinishReason::Length),
        }
    }

    /// Takes the logits `[V]` after [`Session::window`], and chooses the next token.
    ///
    /// # Errors
    /// If the logits are not numbers: the model has diverged.
    pub fn advance(&mut self, logits: &[f32]) -> Result<Step> {
        // Ids beyond the tokenizer's are padding of the vocabulary: they have no text.
        let logits = &logits[..self.tokenizer.vocab_size().min(logits.len())];
        let position = self.history.len() - self.prompt;
        let choice = self.plan.sampler.choose(logits, &self.history, self.plan.sample, position as u64)?;
        let top = likeliest(logits, self.plan.top_logprobs)
            .into_iter()
            .map(|id| {
                let ahead = f64::from(logits[id as usize]) - f64::from(logits[choice.token as usize]);
                (id, choice.logprob + ahead)
            })
            .collect();
        Ok(self.take(choice, top))
    }

    /// [`Session::advance`] by the candidates of the row; none where they do not decide.
    pub fn advance_among(&mut self, candidates: &Candidates) -> Option<Step> {
        let position = self.history.len() - self.prompt;
        let choice = self.plan.sampler.choose_among(candidates, self.plan.sample, position as u64)?;
        Some(self.take(choice, Vec::new()))
    }

    /// Whether candidates can decide: not with a repetition penalty, nor where the likeliest tokens are told.
    fn takes_candidates(&self) -> bool {
        self.plan.top_logprobs == 0 && self.plan.sampler.repetition_penalty == 1.0
    }

    /// Continues with a chosen token.
    fn take(&mut self, choice: Choice, top: Vec<(u32, f64)>) -> Step {
        if self.plan.end.contains(&choice.token) {
            return self.end(None, FinishReason::Eos, String::new());
        }
        let token = Some(Chosen { id: choice.token, logprob: choice.logprob, top });
        self.history.push(choice.token);
        self.logprobs.push(choice.logprob);
        let mut text = String::new();
        if self.out.push(&self.decoder.push(choice.token), &mut |piece| text.push_str(piece)) {
            self.out.flush(&mut |piece| text.push_str(piece));
            self.finish = Some(FinishReason::Stop);
            return Step { token, text, finish: self.finish };
        }
        if self.new_tokens() == self.limit {
            return self.end(token, FinishReason::Length, text);
        }
        if let Some(context) = self.slide.filter(|&context| self.window().len() > context) {
            self.start = self.history.len() - context.div_ceil(2);
        }
        Step { token, text, finish: None }
    }

    /// Ends the text here, and gives what was held back of it.
    pub fn cut(&mut self) -> String {
        self.end(None, FinishReason::Length, String::new()).text
    }

    /// The new text so far, or all of it once it is over.
    pub fn text(&self) -> &str {
        &self.out.text
    }

    /// The number of new tokens.
    pub fn new_tokens(&self) -> usize {
        self.history.len() - self.prompt
    }

    fn end(&mut self, token: Option<Chosen>, mut finish: FinishReason, mut text: String) -> Step {
        if self.out.push(&self.decoder.finish(), &mut |piece| text.push_str(piece)) {
            finish = FinishReason::Stop;
        }
        self.out.flush(&mut |piece| text.push_str(piece));
        self.finish = Some(finish);
        Step { token, text, finish: self.finish }
    }
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("plan", &self.plan).field("text", &self.out.text).finish_non_exhaustive()
    }
}

/// One token for each of some texts, in the slots of an engine (a slot at most once): feeds what the engine has not
/// seen, and chooses, where the engine selects candidates among those. `logits` is scratch. Gives a step, or a diverged
/// model's error, for each.
///
/// # Errors
/// Those of the engine, which concern all texts.
pub fn step(
    engine: &mut dyn Decode,
    texts: &mut [(usize, &mut Session<'_>)],
    logits: &mut Vec<f32>,
) -> Result<Vec<Result<Step>>> {
    let vocabulary = engine.config().vocab_size;
    let feeds: Vec<Feed<'_>> =
        texts.iter().map(|(slot, text)| Feed { slot: *slot, tokens: &text.window()[engine.len(*slot)..] }).collect();
    let Some(select) = engine.selecting().filter(|_| texts.iter().any(|(_, text)| text.takes_candidates())) else {
        engine.feed(&feeds, logits)?;
        return Ok(texts
            .iter_mut()
            .zip(logits.chunks_exact(vocabulary))
            .map(|((_, text), row)| text.advance(row))
            .collect());
    };
    let temperatures: Vec<f64> = texts.iter().map(|(_, text)| text.plan.sampler.temperature).collect();
    let known = texts.first().map_or(vocabulary, |(_, text)| text.tokenizer.vocab_size().min(vocabulary));
    let found = select.feed_candidates(&feeds, known, &temperatures)?;
    let mut steps = Vec::with_capacity(texts.len());
    for (index, ((_, text), candidates)) in texts.iter_mut().zip(&found).enumerate() {
        let decided = if text.takes_candidates() { text.advance_among(candidates) } else { None };
        steps.push(match decided {
            Some(step) => Ok(step),
            None => text.advance(&select.logits_of(index)?),
        });
    }
    Ok(steps)
}

/// The `count` tokens with the highest logits, highest first, the lower id first among equals.
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let count = count.min(logits.len());
    if count == 0 {
        return Vec::new();
    }
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let descending = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
    ids.select_nth_unstable_by(count - 1, descending);
    ids.truncate(count);
    ids.sort_unstable_by(descending);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ModelConfig;
    use crate::model::Gpt;
    use crate::sample::{Cached, Request, generate, prompt_tokens};

    #[test]
    fn step_by_step_is_the_text_of_generate() {
        let config = ModelConfig::gpt2(2, 2, 16, 64, 257);
        let model = Gpt::new(config.clone()).unwrap();
        let params = model.initialise(1).unwrap();
        let tokenizer = Tokenizer::bytes();
        let sampler = SamplerConfig { temperature: 0.7, repetition_penalty: 1.2, seed: 4, ..Default::default() };
        for (prompt, stop, max_new_tokens) in
            [("abc", vec![], 10), ("é", vec!["e".to_string(), "\u{fffd}".into()], 60), ("", vec![], 1000)]
        {
            let request = Request { prompt, max_new_tokens, stop: &stop, sampler: &sampler, sample: 3 };
            let mut shown = String::new();
            let expected = generate(&model, &params, &tokenizer, &request, &mut |text| shown.push_str(text)).unwrap();
            let (sampler, end) = (sampler.clone(), vec![256]);
            let plan = Plan { max_new_tokens, stop: stop.clone(), end, sampler, sample: 3, top_logprobs: 2 };
            let tokens = prompt_tokens(&tokenizer, prompt).unwrap();
            let mut session = Session::new(&tokenizer, tokens, config.context_length, plan).unwrap();
            let mut cached = Cached::new(&model, &params, 1000);
            let (mut text, mut logprobs) = (String::new(), Vec::new());
            let finish = loop {
                let step = session.advance(&cached.logits(session.history()).unwrap()).unwrap();
                text.push_str(&step.text);
                if let Some(token) = step.token {
                    assert!(token.top.len() == 2 && token.top[0].1 >= token.top[1].1.max(token.logprob) - 1e-12);
                    assert!(token.top.iter().all(|&(id, p)| id != token.id || p == token.logprob));
                    logprobs.push(token.logprob);
                }
                if let Some(finish) = step.finish {
                    break finish;
                }
            };
            assert_eq!((text.as_str(), session.text()), (shown.as_str(), expected.text.as_str()));
            assert_eq!((finish, logprobs), (expected.finish_reason, expected.logprobs));
            assert_eq!(session.history()[session.history().len() - session.new_tokens()..], expected.tokens);
        }
    }

    #[test]
    fn a_cut_text_keeps_what_was_held_back() {
        let tokenizer = Tokenizer::bytes();
        let sampler = SamplerConfig { temperature: 0.0, ..Default::default() };
        let stop = vec!["ab".to_string()];
        let plan = Plan { max_new_tokens: 9, stop, end: vec![256], sampler, sample: 0, top_logprobs: 0 };
        assert!(Session::new(&tokenizer, vec![], 4, plan.clone()).is_err());
        assert!(Session::new(&tokenizer, vec![1; 5], 4, plan.clone()).is_err());
        let mut session = Session::new(&tokenizer, vec![1], 4, plan).unwrap();
        let mut logits = vec![0.0; 257];
        logits[usize::from(b'a')] = 1.0;
        assert_eq!(session.advance(&logits).unwrap().text, "");
        assert_eq!((session.cut(), session.text()), ("a".to_string(), "a"));
    }
}
