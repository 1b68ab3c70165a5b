//! Benchmarks: which continuation of a text a model finds likelier.
//!
//! Every task here is one thing: a context, one or several continuations, and the log-probability of each continuation
//! given the context. HellaSwag and multiple choice ask which choice is the likeliest, LAMBADA asks whether the one
//! continuation is what greedy decoding would write. Contexts and continuations are tokenized and cut as EleutherAI's
//! lm-evaluation-harness does (Gao et al., doi:10.5281/zenodo.10256836), so that scores can be compared; docs/eval.md has
//! the formulas and the differences.
//!
//! A task is read and tokenized before the model runs ([`Task::load`]), so that a bad line shows at once, and can be scored
//! many times ([`Task::score`]).

mod metric;
mod pass;
mod read;

use std::path::Path;

pub use super::config::{TaskKind, TaskSpec};
pub use metric::Metric;

use crate::arch::ModelConfig;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::tape::Params;

/// A benchmark, tokenized for one model.
#[derive(Clone, Debug)]
pub struct Task {
    /// What the examples are.
    pub kind: TaskKind,
    /// The file they were read from, as it was named.
    pub path: String,
    /// Examples that were left out because a continuation alone is longer than the model's context.
    pub skipped: u64,
    /// Examples that are scored with less than their whole context, which was cut from the left to fit the model's.
    pub cut: u64,
    examples: Vec<Example>,
}

/// One example, ready for the model.
#[derive(Clone, Debug)]
struct Example {
    line: u64,
    answer: usize,
    choices: Vec<Choice>,
}

/// A context and one continuation.
#[derive(Clone, Debug)]
struct Choice {
    /// What is left of the context, and the continuation: at most one more than the model's context, because the last token
    /// is only predicted.
    tokens: Vec<u32>,
    /// How many of them, at the end, are the continuation.
    predicted: usize,
    /// Bytes of the continuation's text, without the blank before it.
    bytes: usize,
}

/// What came of a continuation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChoiceScore {
    /// The log-probability of the continuation given the context, in nats: the sum over its tokens.
    pub log_probability: f64,
    /// Its number of tokens.
    pub tokens: usize,
    /// Bytes of its text, without the blank before it.
    pub bytes: usize,
    /// Whether each of its tokens is the likeliest at its place.
    pub greedy: bool,
}

/// What came of an example.
#[derive(Clone, Debug, PartialEq)]
pub struct ExampleScore {
    /// Its line in the file, counted from 1.
    pub line: u64,
    /// The right choice, counted from 0.
    pub answer: usize,
    /// Its choices, in the order of the file; LAMBADA has one.
    pub choices: Vec<ChoiceScore>,
}

/// What came of a benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskScore {
    /// What the examples are.
    pub kind: TaskKind,
    /// The numbers.
    pub metrics: Vec<Metric>,
    /// Each example, in the order of the file.
    pub examples: Vec<ExampleScore>,
}

impl Task {
    /// Reads and tokenizes the first `max_examples` examples (all where None) for a model of this shape.
    ///
    /// The context and the continuation are tokenized together and parted where the context's own tokens end; blanks at the
    /// end of a context belong to the continuation. A context that is too long loses its beginning.
    ///
    /// # Errors
    /// `Io` if the file cannot be read; `Data` with the line that is no example, or that the vocabulary cannot express;
    /// `Usage` if no example is left.
    pub fn load(
        spec: &TaskSpec,
        tokenizer: &Tokenizer,
        shape: &ModelConfig,
        max_examples: Option<u64>,
    ) -> Result<Task> {
        let texts = read::examples(spec.kind, Path::new(&spec.path), max_examples)?;
        let mut task = Task { kind: spec.kind, path: spec.path.clone(), skipped: 0, cut: 0, examples: Vec::new() };
        let found = texts.len();
        for text in texts {
            let wrong = |message: String| Error::data(format!("{}:{}", spec.path, text.line), message);
            let mut cut = false;
            let mut choices = Vec::with_capacity(text.continuations.len());
            for (continuation, bytes) in &text.continuations {
                let (context, continuation) =
                    encode_pair(tokenizer, &text.context, continuation).map_err(|error| match error {
                        Error::Data { message, .. } => wrong(message),
                        other => other,
                    })?;
                if continuation.is_empty() {
                    return Err(wrong(
                        "a continuation has no tokens of its own: the tokenizer merges it into the context".into(),
                    ));
                }
                let predicted = continuation.len();
                let mut tokens = [context, continuation].concat();
                if let Some(id) = tokens.iter().find(|&&id| id as usize >= shape.vocab_size) {
                    let size = shape.vocab_size;
                    return Err(wrong(format!("needs token {id}, and the model's vocabulary has only {size}")));
                }
                cut |= tokens.len() > shape.context_length + 1;
                tokens.drain(..tokens.len().saturating_sub(shape.context_length + 1));
                choices.push(Choice { tokens, predicted, bytes: *bytes });
            }
            // At least one token must be left to predict from.
            if choices.iter().any(|choice| choice.predicted >= choice.tokens.len()) {
                task.skipped += 1;
                continue;
            }
            task.cut += u64::from(cut);
            task.examples.push(Example { line: text.line, answer: text.answer, choices });
        }
        if task.examples.is_empty() {
            return Err(Error::usage(match found {
                0 => format!("{} has no examples", spec.path),
                _ => format!(
                    "every example of {} has a continuation longer than the model's context of {} tokens",
                    spec.path, shape.context_length
                ),
            }));
        }
        Ok(task)
    }

    /// How many examples are scored.
    pub fn examples(&self) -> u64 {
        self.examples.len() as u64
    }

    /// What a person should know about how the examples fit the model.
    pub fn notes(&self) -> Vec<String> {
        let (name, path) = (self.kind.name(), &self.path);
        let all = self.examples() + self.skipped;
        let mut notes = Vec::new();
        if self.skipped > 0 {
            notes.push(format!(
                "{name}: {} of {all} examples of {path} are left out: a continuation is longer than the model's context",
                self.skipped
            ));
        }
        if self.cut > 0 {
            notes.push(format!(
                "{name}: {} of {all} examples of {path} are longer than the model's context; theirs is cut from the left",
                self.cut
            ));
        }
        notes
    }

    /// Scores every example, `batch` continuations at once; the numbers do not depend on `batch`. `progress` is called with
    /// continuations done and in all.
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn score(
        &self,
        model: &Gpt,
        params: &Params,
        batch: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<TaskScore> {
        let choices: Vec<&Choice> = self.examples.iter().flat_map(|example| &example.choices).collect();
        let mut scores = pass::score(model, params, &choices, batch, progress)?.into_iter();
        let of = |example: &Example| ExampleScore {
            line: example.line,
            answer: example.answer,
            choices: scores.by_ref().take(example.choices.len()).collect(),
        };
        let examples: Vec<ExampleScore> = self.examples.iter().map(of).collect();
        Ok(TaskScore { kind: self.kind, metrics: metric::of(self.kind, &examples), examples })
    }
}

/// The tokens of a context and of what follows it, as lm-evaluation-harness parts them.
fn encode_pair(tokenizer: &Tokenizer, context: &str, continuation: &str) -> Result<(Vec<u32>, Vec<u32>)> {
    if context.is_empty() {
        let start = tokenizer.eot().ok_or_else(|| {
            Error::data(
                "the example",
                "has no context to predict from, and the tokenizer no end-of-text to stand in for it",
            )
        })?;
        return Ok((vec![start], tokenizer.encode(continuation, false)?));
    }
    // Most tokenizers put a blank into the token of the word that follows it.
    let own = tokenizer.encode(context.trim_end(), false)?.len();
    let text = format!("{context}{continuation}");
    if own == 0 {
        return encode_pair(tokenizer, "", &text);
    }
    let mut whole = tokenizer.encode(&text, false)?;
    let after = whole.split_off(own.min(whole.len()));
    Ok((whole, after))
}
