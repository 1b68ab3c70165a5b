//! The fields of a request's body, each read with its type and range; whatever is wrong is named.

use serde_json::{Map, Value};

use super::refused::{Checked, Kind, MAX_LOGPROBS, Refused};
use crate::data::Message;
use crate::sample::SamplerConfig;

/// The most stop strings.
const MAX_STOPS: usize = 16;

/// The fields of a body; null is treated as absent.
pub(super) struct Fields(pub Map<String, Value>);

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Checked<Option<&str>> {
        self.get(name).map(|value| value.as_str().ok_or_else(|| Refused::field(name, "must be a text"))).transpose()
    }

    pub(super) fn flag(&self, name: &str) -> Checked<Option<bool>> {
        self.get(name)
            .map(|value| value.as_bool().ok_or_else(|| Refused::field(name, "must be true or false")))
            .transpose()
    }

    fn number(&self, name: &str) -> Checked<Option<f64>> {
        self.get(name).map(|value| value.as_f64().ok_or_else(|| Refused::field(name, "must be a number"))).transpose()
    }

    pub(super) fn whole(&self, name: &str, least: u64, most: u64) -> Checked<Option<u64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // 5.0 is what some languages send for 5.
        let whole = value.as_u64().or_else(|| {
            let number = value.as_f64()?;
            (number.fract() == 0.0 && (0.0..9e15).contains(&number)).then_some(number as u64)
        });
        match whole.filter(|whole| (least..=most).contains(whole)) {
            Some(whole) => Ok(Some(whole)),
            None if most >= usize::MAX as u64 => {
                Err(Refused::field(name, format!("must be a whole number of at least {least}, not {value}")))
            }
            None => Err(Refused::field(name, format!("must be a whole number from {least} to {most}, not {value}"))),
        }
    }

    pub(super) fn sampler(&self) -> Checked<SamplerConfig> {
        let temperature = self.number("temperature")?.unwrap_or(1.0);
        if !(0.0..=2.0).contains(&temperature) {
            return Err(Refused::field("temperature", "must be a number from 0 to 2"));
        }
        let seed = match self.get("seed") {
            // Any whole number will do; a negative one as its bits.
            Some(value) => match (value.as_u64(), value.as_i64()) {
                (Some(seed), _) => seed,
                (None, Some(seed)) => seed as u64,
                (None, None) => return Err(Refused::field("seed", "must be a whole number")),
            },
            None => fresh_seed(),
        };
        let sampler = SamplerConfig {
            temperature,
            top_k: self.whole("top_k", 1, u64::MAX)?.map(|k| k as usize),
            top_p: self.number("top_p")?,
            min_p: self.number("min_p")?,
            repetition_penalty: self.number("repetition_penalty")?.unwrap_or(1.0),
            seed,
        };
        // One field after the other, so that the one at fault is named.
        let plain = SamplerConfig::default;
        let alone = [
            ("top_p", SamplerConfig { top_p: sampler.top_p, ..plain() }),
            ("min_p", SamplerConfig { min_p: sampler.min_p, ..plain() }),
            ("repetition_penalty", SamplerConfig { repetition_penalty: sampler.repetition_penalty, ..plain() }),
        ];
        for (name, config) in alone {
            config.validate().map_err(|error| Refused::field(name, error))?;
        }
        Ok(sampler)
    }

    pub(super) fn stop(&self) -> Checked<Vec<String>> {
        let texts = match self.get("stop") {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => list
                .iter()
                .map(|entry| entry.as_str().map(str::to_string))
                .collect::<Option<_>>()
                .ok_or_else(|| Refused::field("stop", "must be a text or a list of texts"))?,
            Some(_) => return Err(Refused::field("stop", "must be a text or a list of texts")),
        };
        if texts.len() > MAX_STOPS {
            return Err(Refused::field("stop", format!("has more than {MAX_STOPS} texts")));
        }
        Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
    }

    pub(super) fn chat_logprobs(&self) -> Checked<Option<usize>> {
        let wanted = self.flag("logprobs")?.unwrap_or(false);
        let top = self.whole("top_logprobs", 0, MAX_LOGPROBS as u64)?;
        match top {
            Some(top) if top > 0 && !wanted => Err(Refused::field("top_logprobs", "needs \"logprobs\": true")),
            top => Ok(wanted.then_some(top.unwrap_or(0) as usize)),
        }
    }

    pub(super) fn include_usage(&self) -> Checked<bool> {
        match self.get("stream_options") {
            None => Ok(false),
            Some(Value::Object(options)) => Ok(Fields(options.clone()).flag("include_usage")?.unwrap_or(false)),
            Some(_) => Err(Refused::field("stream_options", "must be an object")),
        }
    }

    /// `messages`: each with a role and a content, a text or a list of text parts.
    pub(super) fn messages(&self) -> Checked<Vec<Message>> {
        let wrong = |place: usize, what: &str| Refused::field(&format!("messages[{place}]"), what);
        let list = match self.get("messages") {
            Some(Value::Array(list)) if !list.is_empty() => list,
            _ => return Err(Refused::field("messages", "must be a list of at least one message")),
        };
        let mut messages = Vec::with_capacity(list.len());
        for (place, entry) in list.iter().enumerate() {
            let role = entry.get("role").and_then(Value::as_str).ok_or_else(|| wrong(place, "has no role"))?;
            let content = match entry.get("content") {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(parts)) => parts
                    .iter()
                    .map(|part| part.get("text").filter(|_| part.get("type") == Some(&"text".into()))?.as_str())
                    .collect::<Option<String>>()
                    .ok_or_else(|| wrong(place, "has a content that is not text"))?,
                _ => {
                    return Err(wrong(
                        place,
                        "has no content: a text, or a list of {\"type\": \"text\", \"text\": ...}",
                    ));
                }
            };
            messages.push(Message::new(role, content));
        }
        Ok(messages)
    }

    /// What would change the text and is not there. Values that ask for nothing are fine.
    pub(super) fn refuse_unsupported(&self, kind: Kind) -> Checked<()> {
        for name in ["presence_penalty", "frequency_penalty"] {
            if self.number(name)?.unwrap_or(0.0) != 0.0 {
                return Err(Refused::field(name, "is not supported; repetition_penalty is"));
            }
        }
        let empty = |value: &Value| match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        for name in ["logit_bias", "suffix", "tools", "functions", "prediction", "audio"] {
            if self.get(name).is_some_and(|value| !empty(value)) {
                return Err(Refused::field(name, "is not supported"));
            }
        }
        if let Some(format) = self.get("response_format")
            && format.get("type").and_then(Value::as_str) != Some("text")
        {
            return Err(Refused::field("response_format", "only {\"type\": \"text\"} is supported"));
        }
        let n = self.get("n").and_then(Value::as_u64).unwrap_or(1);
        if kind == Kind::Completion && self.whole("best_of", 1, u64::MAX)?.unwrap_or(n) != n {
            return Err(Refused::field("best_of", "is not supported, except as the same as n"));
        }
        Ok(())
    }
}

/// A seed for a request that names none: from the operating system's randomness.
fn fresh_seed() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(0u8)
}
