//! Requests: from a JSON body to texts to write, or to an error that names the field.
//!
//! Fields are those of OpenAI's API, with `top_k`, `min_p` and `repetition_penalty` added. Fields that are not known are
//! passed over, as clients send many; fields that are known, would change the text and are not supported are refused.

use serde_json::Value;

use super::fields::Fields;
use super::refused::{Checked, Kind, MAX_LOGPROBS, Refused};
use super::{Model, Options};
use crate::data::ChatTemplate;
use crate::data::tokenizer::Tokenizer;
use crate::error::Error;
use crate::sample::prompt_tokens;
use crate::sample::session::Plan;

/// The most texts of one prompt.
const MAX_TEXTS: usize = 128;
/// What a request may ask for.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    prompt_tokens: usize,
    new_tokens: usize,
    context: usize,
    vocabulary: usize,
    /// Texts that can be under way at once.
    texts: usize,
}

impl Limits {
    pub(super) fn new(options: &Options, model: &Model) -> Limits {
        Limits {
            prompt_tokens: options.prompt_tokens,
            new_tokens: options.new_tokens,
            context: model.engine.capacity(),
            vocabulary: model.engine.config().vocab_size,
            texts: model.engine.slots() + options.queue,
        }
    }
}

/// A request, checked.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub kind: Kind,
    /// What to continue, in tokens.
    pub prompts: Vec<Vec<u32>>,
    /// Texts for each prompt.
    pub n: usize,
    /// How; the number of the sample is set for each.
    pub plan: Plan,
    /// Log-probabilities are told, with this many of the likeliest tokens.
    pub logprobs: Option<usize>,
    /// The prompts' texts, to stand before the new text.
    pub echo: Option<Vec<String>>,
    pub stream: bool,
    pub include_usage: bool,
}

/// What turns bodies into requests: the model's name, tokenizer and template.
#[derive(Debug)]
pub(super) struct Front {
    pub name: String,
    pub tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    end: Vec<u32>,
    /// The special token with which the template ends a turn.
    end_of_turn: Option<u32>,
    limits: Limits,
}

impl Front {
    pub(super) fn new(
        name: String,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        end: Vec<u32>,
        limits: Limits,
    ) -> Front {
        let end_of_turn = template.as_ref().and_then(|template| template.end_of_turn(&tokenizer));
        Front { name, tokenizer, template, end, end_of_turn, limits }
    }

    /// The model, as `/v1/models` lists it.
    pub(super) fn describe(&self, created: u64) -> Value {
        serde_json::json!({
            "id": self.name, "object": "model", "created": created, "owned_by": "taper",
            "max_model_len": self.limits.context
        })
    }

    /// Checks a body of the endpoint `kind`.
    pub(super) fn ask(&self, kind: Kind, body: &[u8]) -> Checked<Ask> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| Refused::new(400, format!("the body is not valid JSON: {error}")))?;
        let Value::Object(map) = value else {
            return Err(Refused::new(400, "the body must be a JSON object"));
        };
        let fields = Fields(map);
        if let Some(name) = fields.text("model")?
            && name != self.name
        {
            let message = format!("there is no model {name:?} here; this server has {:?}", self.name);
            let refused = Refused { param: Some("model".into()), ..Refused::new(404, message) };
            return Err(refused.code("model_not_found"));
        }
        fields.refuse_unsupported(kind)?;
        let n = fields.whole("n", 1, MAX_TEXTS as u64)?.unwrap_or(1) as usize;
        let prompts = match kind {
            Kind::Completion => self.prompts(&fields)?,
            Kind::Chat => vec![self.chat_prompt(&fields)?],
        };
        let prompt_field = if kind == Kind::Chat { "messages" } else { "prompt" };
        let most = self.limits.prompt_tokens.min(self.limits.context);
        if let Some(prompt) = prompts.iter().find(|prompt| prompt.len() > most) {
            let message = format!("{} tokens are more than the {most} that a prompt may have", prompt.len());
            return Err(Refused::field(prompt_field, message).code("context_length_exceeded"));
        }
        // A tokenizer may have more ids than the model has rows.
        let below = self.limits.vocabulary;
        if let Some(id) = prompts.iter().flatten().find(|&&id| id as usize >= below) {
            let message = format!("holds the token {id}, and the model knows only those below {below}");
            return Err(Refused::field(prompt_field, message));
        }
        if prompts.len() * n > self.limits.texts {
            let message = format!("{} texts are more than the {} of this server", prompts.len() * n, self.limits.texts);
            return Err(Refused::field(if n > 1 { "n" } else { "prompt" }, message));
        }
        let logprobs = match kind {
            Kind::Completion => fields.whole("logprobs", 0, MAX_LOGPROBS as u64)?.map(|count| count as usize),
            Kind::Chat => fields.chat_logprobs()?,
        };
        let echo = match fields.flag("echo")?.unwrap_or(false) && kind == Kind::Completion {
            true if logprobs.is_some() => {
                return Err(Refused::field("echo", "not together with logprobs: those of the prompt are not computed"));
            }
            true => Some(self.texts_of(&prompts)?),
            false => None,
        };
        let (stream, include_usage) = (fields.flag("stream")?.unwrap_or(false), fields.include_usage()?);
        let max_new_tokens = self.max_new_tokens(&fields, kind)?;
        let plan = Plan {
            max_new_tokens,
            stop: fields.stop()?,
            end: self.end.iter().copied().chain(self.end_of_turn.filter(|_| kind == Kind::Chat)).collect(),
            sampler: fields.sampler()?,
            sample: 0,
            top_logprobs: logprobs.unwrap_or(0),
        };
        Ok(Ask { kind, prompts, n, plan, logprobs, echo, stream, include_usage })
    }

    fn max_new_tokens(&self, fields: &Fields, kind: Kind) -> Checked<usize> {
        let most = self.limits.new_tokens as u64;
        let newer = if kind == Kind::Chat { fields.whole("max_completion_tokens", 1, most)? } else { None };
        let asked = match newer {
            Some(asked) => Some(asked),
            None => fields.whole("max_tokens", 1, most)?,
        };
        // OpenAI's defaults: 16 tokens of a completion, a chat's answer until it ends.
        let default = if kind == Kind::Chat { self.limits.new_tokens } else { 16.min(self.limits.new_tokens) };
        Ok(asked.map_or(default, |asked| asked as usize).min(self.limits.context))
    }

    /// `prompt`: a text, a list of texts, a list of token ids, or a list of such lists.
    fn prompts(&self, fields: &Fields) -> Checked<Vec<Vec<u32>>> {
        const WHAT: &str = "must be a text, a list of texts, a list of token ids, or a list of such lists";
        let wrong = |message: &str| Refused::field("prompt", message);
        let encode = |text: &str| prompt_tokens(&self.tokenizer, text).map_err(|error| Refused::field("prompt", error));
        let list = match fields.get("prompt") {
            None => return Ok(vec![encode("")?]),
            Some(Value::String(text)) => return Ok(vec![encode(text)?]),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(wrong(WHAT)),
        };
        match list.first() {
            None => Err(wrong("an empty list has nothing to continue")),
            Some(Value::Number(_)) => Ok(vec![self.token_ids(list)?]),
            Some(Value::Array(_)) => {
                list.iter().map(|entry| self.token_ids(entry.as_array().ok_or_else(|| wrong(WHAT))?)).collect()
            }
            Some(_) => list.iter().map(|entry| encode(entry.as_str().ok_or_else(|| wrong(WHAT))?)).collect(),
        }
    }

    fn token_ids(&self, list: &[Value]) -> Checked<Vec<u32>> {
        if list.is_empty() {
            return Err(Refused::field("prompt", "an empty list of tokens has nothing to continue"));
        }
        let below = self.limits.vocabulary;
        let id = |value: &Value| {
            let id = value.as_u64().filter(|&id| id < below as u64).map(|id| id as u32);
            id.ok_or_else(|| {
                Refused::field("prompt", format!("{value} is not a token id: those are whole numbers below {below}"))
            })
        };
        list.iter().map(id).collect()
    }

    fn texts_of(&self, prompts: &[Vec<u32>]) -> Checked<Vec<String>> {
        let text = |prompt: &Vec<u32>| self.tokenizer.decode(prompt).map_err(|error| Refused::field("echo", error));
        prompts.iter().map(text).collect()
    }

    fn chat_prompt(&self, fields: &Fields) -> Checked<Vec<u32>> {
        let Some(template) = &self.template else {
            let message = "this is a base model without a chat template; use /v1/completions";
            return Err(Refused::new(400, message).code("no_chat_template"));
        };
        let messages = fields.messages()?;
        let text = template.render(&messages, true).map_err(|error| match error {
            Error::Usage(message) => Refused::field("messages", message),
            error => Refused::new(500, error.to_string()),
        })?;
        let tokens = self.tokenizer.encode(&text, true).map_err(|error| Refused::field("messages", error))?;
        if tokens.is_empty() {
            return Err(Refused::field("messages", "the chat template makes no text of them"));
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn front(template: Option<&str>) -> Front {
        let template = template.map(|source| ChatTemplate::from_source(source, "", "").unwrap());
        let limits = Limits { prompt_tokens: 20, new_tokens: 50, context: 64, vocabulary: 300, texts: 8 };
        Front::new("m".into(), Tokenizer::bytes(), template, vec![256], limits)
    }

    fn ask(kind: Kind, body: Value) -> Checked<Ask> {
        let template = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}";
        front(Some(template)).ask(kind, body.to_string().as_bytes())
    }

    #[test]
    fn what_clients_send_is_understood() {
        let body = json!({
            "model": "m", "prompt": ["ab", ""], "n": 2, "max_tokens": 5.0, "temperature": 0, "top_p": 1, "top_k": 3,
            "min_p": null, "stop": "x", "seed": -1, "logprobs": 2, "stream": true, "stream_options": {"include_usage": true},
            "user": "someone", "presence_penalty": 0.0, "logit_bias": {}, "best_of": 2, "unheard_of": [1]
        });
        let found = ask(Kind::Completion, body).unwrap();
        assert_eq!((found.prompts, found.n), (vec![vec![97, 98], vec![256]], 2));
        assert_eq!((found.plan.max_new_tokens, found.plan.stop, found.logprobs), (5, vec!["x".to_string()], Some(2)));
        assert_eq!((found.plan.sampler.seed, found.plan.sampler.top_k), (u64::MAX, Some(3)));
        assert!(found.stream && found.include_usage && found.echo.is_none());
        let found = ask(Kind::Completion, json!({ "prompt": [[1, 299], [2]], "stop": ["", "b"] })).unwrap();
        assert_eq!((found.prompts, found.plan.max_new_tokens), (vec![vec![1, 299], vec![2]], 16));
        assert_eq!((found.plan.stop, found.plan.sampler.temperature), (vec!["b".to_string()], 1.0));
        let echoed = ask(Kind::Completion, json!({ "prompt": [104, 105], "echo": true })).unwrap();
        assert_eq!(echoed.echo, Some(vec!["hi".to_string()]));
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let messages = json!([{"role": "system", "content": "s"}, {"role": "user", "content": parts}]);
        let body = json!({ "messages": messages, "logprobs": true, "top_logprobs": 3, "max_completion_tokens": 7 });
        let found = ask(Kind::Chat, body).unwrap();
        assert_eq!(Tokenizer::bytes().decode(&found.prompts[0]).unwrap(), "system:s;user:ab;");
        assert_eq!((found.logprobs, found.plan.max_new_tokens), (Some(3), 7));
        assert_eq!(ask(Kind::Chat, json!({ "messages": messages })).unwrap().plan.max_new_tokens, 50);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let completion = [
            (json!({"prompt": 3}), "prompt"),
            (json!({"prompt": []}), "prompt"),
            (json!({"prompt": [[]]}), "prompt"),
            (json!({"prompt": ["a", 1]}), "prompt"),
            (json!({"prompt": [1, "a"]}), "prompt"),
            (json!({"prompt": [[1], "a"]}), "prompt"),
            (json!({"prompt": [300]}), "prompt"),
            (json!({"prompt": [-1]}), "prompt"),
            (json!({"prompt": [1.5]}), "prompt"),
            (json!({"prompt": "x".repeat(21)}), "prompt"),
            (json!({"model": 1}), "model"),
            (json!({"n": 0}), "n"),
            (json!({"n": 9}), "n"),
            (json!({"n": "2"}), "n"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"max_tokens": 51}), "max_tokens"),
            (json!({"max_tokens": -3}), "max_tokens"),
            (json!({"temperature": 2.5}), "temperature"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"top_p": 0}), "top_p"),
            (json!({"top_k": 0}), "top_k"),
            (json!({"min_p": 2}), "min_p"),
            (json!({"repetition_penalty": 0}), "repetition_penalty"),
            (json!({"seed": 0.5}), "seed"),
            (json!({"stop": 5}), "stop"),
            (json!({"stop": ["a", 5]}), "stop"),
            (json!({"stop": vec!["a"; 17]}), "stop"),
            (json!({"logprobs": 21}), "logprobs"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"echo": true, "logprobs": 1}), "echo"),
            (json!({"stream": "yes"}), "stream"),
            (json!({"stream_options": 1}), "stream_options"),
            (json!({"stream_options": {"include_usage": 1}}), "include_usage"),
            (json!({"presence_penalty": 1}), "presence_penalty"),
            (json!({"logit_bias": {"5": 1}}), "logit_bias"),
            (json!({"suffix": "x"}), "suffix"),
            (json!({"best_of": 2}), "best_of"),
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
        ];
        for (body, param) in completion {
            let refused = ask(Kind::Completion, body.clone()).unwrap_err();
            assert_eq!((refused.status, refused.param.as_deref()), (400, Some(param)), "{body}: {refused:?}");
            assert_eq!(refused.body()["error"]["type"], "invalid_request_error");
        }
        let chat = [
            (json!({}), "messages"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": [1]}), "messages[0]"),
            (json!({"messages": [{"role": "user", "content": "a"}, {"role": "user"}]}), "messages[1]"),
            (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages[0]"),
            (json!({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}), "top_logprobs"),
            (json!({"messages": [{"role": "user", "content": "a"}], "tools": [{}]}), "tools"),
        ];
        for (body, param) in chat {
            let refused = ask(Kind::Chat, body.clone()).unwrap_err();
            assert_eq!((refused.status, refused.param.as_deref()), (400, Some(param)), "{body}: {refused:?}");
        }
        assert_eq!(ask(Kind::Completion, json!({"model": "other"})).unwrap_err().status, 404);
        let mut narrow = front(None);
        narrow.limits.vocabulary = 100;
        assert!(narrow.ask(Kind::Completion, br#"{"prompt": "a"}"#).is_ok());
        let refused = narrow.ask(Kind::Completion, br#"{"prompt": "z"}"#).unwrap_err();
        assert_eq!((refused.status, refused.param.as_deref()), (400, Some("prompt")));
        for body in [&b"{"[..], b"[]", b"\xff", b""] {
            assert_eq!(front(None).ask(Kind::Completion, body).unwrap_err().status, 400);
        }
    }

    #[test]
    fn chats_need_a_template_and_its_consent() {
        let body = json!({"messages": [{"role": "user", "content": "a"}]}).to_string();
        let refused = front(None).ask(Kind::Chat, body.as_bytes()).unwrap_err();
        assert_eq!((refused.status, refused.code), (400, Some("no_chat_template")));
        let refused = front(Some("{{ raise_exception('no') }}")).ask(Kind::Chat, body.as_bytes()).unwrap_err();
        assert_eq!((refused.status, refused.param.as_deref()), (400, Some("messages")));
        assert_eq!(front(Some("{{ 1 | no_filter }}")).ask(Kind::Chat, body.as_bytes()).unwrap_err().status, 500);
    }
}
