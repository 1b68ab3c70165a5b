//! Answers: from the steps of texts to the JSON that OpenAI's API writes, whole or in chunks.

use serde_json::{Value, json};

use super::api::{Ask, Front};
use super::refused::Kind;
use crate::data::tokenizer::Tokenizer;
use crate::sample::FinishReason;
use crate::sample::session::{Chosen, Step};

/// OpenAI's floor: JSON has no minus infinity.
const LEAST_LOGPROB: f64 = -9999.0;

/// One of the texts of an answer.
#[derive(Debug, Default)]
struct Text {
    text: String,
    tokens: usize,
    logprobs: Vec<Value>,
    /// Characters before the next token, the echoed prompt's included.
    offset: usize,
    finish: Option<&'static str>,
}

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Answer {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
    tokenizer: Tokenizer,
    logprobs: bool,
    include_usage: bool,
    prompt_tokens: usize,
    /// What stands before the text of each choice.
    echo: Vec<String>,
    texts: Vec<Text>,
}

impl Answer {
    /// Nothing written yet. `number` makes the id.
    pub(super) fn new(ask: &Ask, front: &Front, number: u64, created: u64) -> Answer {
        let count = ask.prompts.len() * ask.n;
        let echo: Vec<String> = match &ask.echo {
            Some(prompts) => prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.clone(), ask.n)).collect(),
            None => vec![String::new(); count],
        };
        let kind = if ask.kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        Answer {
            kind: ask.kind,
            id: format!("{kind}-{created:x}-{number:x}"),
            created,
            model: front.name.clone(),
            tokenizer: front.tokenizer.clone(),
            logprobs: ask.logprobs.is_some(),
            include_usage: ask.include_usage,
            prompt_tokens: ask.prompts.iter().map(Vec::len).sum(),
            texts: echo.iter().map(|echo| Text { offset: echo.chars().count(), ..Text::default() }).collect(),
            echo,
        }
    }

    /// Whether all texts are over.
    pub(super) fn is_over(&self) -> bool {
        self.texts.iter().all(|text| text.finish.is_some())
    }

    /// Takes a step of text `index`; gives what of its log-probabilities is new.
    pub(super) fn take(&mut self, index: usize, step: &Step) -> Value {
        let logprobs = match &step.token {
            Some(token) if self.logprobs => Some(self.logprob(index, token)),
            _ => None,
        };
        let text = &mut self.texts[index];
        text.text.push_str(&step.text);
        text.tokens += usize::from(step.token.is_some());
        text.finish = step.finish.map(|finish| match finish {
            FinishReason::Length => "length",
            FinishReason::Eos | FinishReason::Stop => "stop",
        });
        match logprobs {
            Some(entry) => {
                text.logprobs.push(entry.clone());
                self.gather(&[entry])
            }
            None => Value::Null,
        }
    }

    /// The whole answer.
    pub(super) fn whole(&self) -> Value {
        let choices: Vec<Value> = self
            .texts
            .iter()
            .zip(&self.echo)
            .enumerate()
            .map(|(index, (text, echo))| {
                let logprobs = if self.logprobs { self.gather(&text.logprobs) } else { Value::Null };
                match self.kind {
                    Kind::Completion => json!({
                        "index": index, "text": format!("{echo}{}", text.text), "logprobs": logprobs,
                        "finish_reason": text.finish
                    }),
                    Kind::Chat => json!({
                        "index": index, "message": { "role": "assistant", "content": text.text, "refusal": null },
                        "logprobs": logprobs, "finish_reason": text.finish
                    }),
                }
            })
            .collect();
        let object = if self.kind == Kind::Chat { "chat.completion" } else { "text_completion" };
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
            "usage": self.usage()
        })
    }

    /// The chunks before the first token: who speaks, or the echoed prompts.
    pub(super) fn first_chunks(&self) -> Vec<Value> {
        let chunk = |index: usize| match self.kind {
            Kind::Chat => {
                Some(self.chunk(index, "delta", json!({ "role": "assistant", "content": "" }), Value::Null, None))
            }
            Kind::Completion if self.echo[index].is_empty() => None,
            Kind::Completion => Some(self.chunk(index, "text", json!(self.echo[index]), Value::Null, None)),
        };
        (0..self.texts.len()).filter_map(chunk).collect()
    }

    /// The chunk of a step of text `index`, if there is anything to tell.
    pub(super) fn next_chunk(&mut self, index: usize, step: &Step) -> Option<Value> {
        let logprobs = self.take(index, step);
        if step.text.is_empty() && logprobs.is_null() && step.finish.is_none() {
            return None;
        }
        let finish = self.texts[index].finish;
        Some(match self.kind {
            Kind::Completion => self.chunk(index, "text", json!(step.text), logprobs, finish),
            Kind::Chat => {
                let delta = if step.text.is_empty() { json!({}) } else { json!({ "content": step.text }) };
                self.chunk(index, "delta", delta, logprobs, finish)
            }
        })
    }

    /// The chunk after all texts, where it was asked for: the usage.
    pub(super) fn last_chunk(&self) -> Option<Value> {
        self.include_usage.then(|| self.envelope(json!([]), self.usage()))
    }

    fn chunk(&self, index: usize, key: &str, value: Value, logprobs: Value, finish: Option<&str>) -> Value {
        let choice = json!([{ "index": index, key: value, "logprobs": logprobs, "finish_reason": finish }]);
        self.envelope(choice, Value::Null)
    }

    fn envelope(&self, choices: Value, usage: Value) -> Value {
        let object = if self.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices
        });
        if self.include_usage {
            chunk["usage"] = usage;
        }
        chunk
    }

    fn usage(&self) -> Value {
        let completion: usize = self.texts.iter().map(|text| text.tokens).sum();
        json!({
            "prompt_tokens": self.prompt_tokens, "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion
        })
    }

    /// A token as text; where it is a piece of a character, its bytes as OpenAI writes them: `bytes:\xe2\x80`.
    fn token_text(&self, id: u32) -> String {
        let bytes = self.tokenizer.token_bytes(id).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_else(|error| {
            let hex: String = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{hex}")
        })
    }

    /// One token's entry: of the chat format, or with the place in the text for [`Answer::gather`].
    fn logprob(&mut self, index: usize, token: &Chosen) -> Value {
        let entry = |id: u32, logprob: f64| {
            json!({
                "token": self.token_text(id), "logprob": logprob.max(LEAST_LOGPROB),
                "bytes": self.tokenizer.token_bytes(id)
            })
        };
        let mut own = entry(token.id, token.logprob);
        own["top_logprobs"] = token.top.iter().map(|&(id, logprob)| entry(id, logprob)).collect();
        if self.kind == Kind::Completion {
            let bytes = self.tokenizer.token_bytes(token.id).unwrap_or_default();
            let length = String::from_utf8_lossy(&bytes).chars().count();
            own["text_offset"] = json!(self.texts[index].offset);
            self.texts[index].offset += length;
        }
        own
    }

    /// Entries in the form of the endpoint.
    fn gather(&self, entries: &[Value]) -> Value {
        if self.kind == Kind::Chat {
            return json!({ "content": entries, "refusal": null });
        }
        let column = |key: &str| -> Vec<Value> { entries.iter().map(|entry| entry[key].clone()).collect() };
        // The chosen token stands among the likeliest, as OpenAI writes it.
        let top = |entry: &Value| {
            let mut map = serde_json::Map::new();
            for one in entry["top_logprobs"].as_array().into_iter().flatten().chain([entry]) {
                map.insert(one["token"].as_str().unwrap_or_default().into(), one["logprob"].clone());
            }
            Value::Object(map)
        };
        json!({
            "tokens": column("token"), "token_logprobs": column("logprob"),
            "top_logprobs": entries.iter().map(top).collect::<Vec<Value>>(), "text_offset": column("text_offset")
        })
    }
}
