//! Conversations: JSON lines of messages in, tokens out, each with a word on whether the model learns to write it.
//!
//! What the assistant says is found by the template itself: rendered up to the message with the generation prompt, and
//! up to its end. The first must begin the second, and the second the whole, or the place of the answer is not known
//! and the conversation is refused. The text is cut at those places before it is encoded, so that an answer's tokens
//! follow the very tokens that a prompt of the same conversation has when the model is used. An answer includes
//! whatever the template writes to end the turn: the model must learn to stop.

use rayon::prelude::*;
use serde_json::Value;

use crate::data::chat::{ChatTemplate, Message};
use crate::data::text::inputs::Format;
use crate::data::text::json_lines;
use crate::data::text::{inputs, jsonl};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result, ResultExt};

/// ChatML, for a vocabulary that has its marks as tokens.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
                      '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// ChatML for other vocabularies: its marks are ordinary text, so an answer also ends with the end-of-text token, at which
/// sampling stops.
const CHATML_EOS: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
                          '<|im_end|>' }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}\
                          {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The built-in template for a vocabulary: ChatML.
pub fn built_in(tokenizer: &Tokenizer) -> Result<&'static str> {
    let whole = tokenizer.encode("<|im_end|>", true)?.len() == 1;
    Ok(if whole { CHATML } else { CHATML_EOS })
}

/// Tokens of conversations, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversations {
    /// The ids of all.
    pub tokens: Vec<u32>,
    /// For each token, 1 if the model learns to write it.
    pub learn: Vec<u8>,
    /// Where each conversation ends in `tokens`.
    pub ends: Vec<u64>,
}

impl Conversations {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Where conversation `i` stands in [`Conversations::tokens`].
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        start..self.ends[i] as usize
    }

    fn push(&mut self, encoded: Encoded) {
        self.tokens.extend(encoded.tokens);
        self.learn.extend(encoded.learn);
        self.ends.push(self.tokens.len() as u64);
    }

    /// Moves the conversations from number `first` on to a list of their own.
    pub fn split_off(&mut self, first: usize) -> Conversations {
        let at = if first < self.len() { self.range(first).start } else { self.tokens.len() };
        let ends = self.ends.split_off(first).into_iter().map(|end| end - at as u64).collect();
        Conversations { tokens: self.tokens.split_off(at), learn: self.learn.split_off(at), ends }
    }
}

/// How conversations become tokens.
#[derive(Clone, Copy, Debug)]
pub struct Encoding<'a> {
    /// The template.
    pub template: &'a ChatTemplate,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Whether special tokens spelled out in what is said become those tokens; otherwise they are refused.
    pub parse_special: bool,
}

/// Conversations read at a time, and encoded by all threads.
const BLOCK: usize = 1024;

/// Reads and encodes the conversations of JSON lines files, in order: `{"messages": [{"role", "content"}, ..]}` or
/// `{"prompt", "completion"}` on each line.
///
/// # Errors
/// `Data` with file and line for a line that is no conversation, or one that the template refuses or renders in a way
/// that hides where answers begin; whatever is wrong with the inputs.
pub fn read(given: &[String], encoding: Encoding<'_>) -> Result<Conversations> {
    let mut all = Conversations::default();
    let mut block: Vec<(String, Vec<u8>)> = Vec::with_capacity(BLOCK);
    let mut flush = |block: &mut Vec<(String, Vec<u8>)>| -> Result<()> {
        let encoded: Vec<Result<Encoded>> =
            block.par_iter().map(|(place, line)| encode(place, line, encoding)).collect();
        block.clear();
        encoded.into_iter().try_for_each(|encoded| encoded.map(|encoded| all.push(encoded)))
    };
    for source in inputs::resolve(given)? {
        let shown = source.path.display().to_string();
        if source.format != Format::JsonLines {
            return Err(Error::usage(format!(
                "{shown} is not JSON lines; data.format = \"chat\" reads .jsonl files (also .gz and .zst)"
            )));
        }
        let mut lines = json_lines(&source)?;
        while let Some(line) = lines.next_line()? {
            block.push((format!("{shown}:{}", lines.line()), line));
            if block.len() == BLOCK {
                flush(&mut block)?;
            }
        }
    }
    flush(&mut block)?;
    Ok(all)
}

struct Encoded {
    tokens: Vec<u32>,
    learn: Vec<u8>,
}

/// The messages of a line.
fn messages(line: &[u8]) -> std::result::Result<Vec<Message>, String> {
    let value: Value =
        serde_json::from_slice(line).map_err(|error| format!("not a line of JSON: {}", jsonl::without_line(&error)))?;
    let text = |value: &Value, key: &str| match &value[key] {
        Value::String(text) => Ok(text.clone()),
        Value::Null => Err(format!("has no \"{key}\"")),
        _ => Err(format!("has a \"{key}\" that is not a string")),
    };
    if !value.is_object() {
        return Err("is not a JSON object".into());
    }
    if value.get("messages").is_none() {
        if value.get("prompt").is_none() && value.get("completion").is_none() {
            return Err("has neither \"messages\" nor \"prompt\" and \"completion\"".into());
        }
        let of = |role: &str, content| Message { role: role.into(), content };
        return Ok(vec![of("user", text(&value, "prompt")?), of("assistant", text(&value, "completion")?)]);
    }
    let Value::Array(list) = &value["messages"] else { return Err("has \"messages\" that are not a list".into()) };
    let one = |(i, message): (usize, &Value)| -> std::result::Result<Message, String> {
        let of = |key: &str| text(message, key).map_err(|what| format!("message {} {what}", i + 1));
        Ok(Message { role: of("role")?, content: of("content")? })
    };
    let messages = list.iter().enumerate().map(one).collect::<std::result::Result<Vec<_>, _>>()?;
    match messages.iter().any(|message| message.role == "assistant") {
        true => Ok(messages),
        false => Err("has no message of the role \"assistant\", so there is nothing to learn from it".into()),
    }
}

fn encode(place: &str, line: &[u8], encoding: Encoding<'_>) -> Result<Encoded> {
    let wrong = |what: String| Error::data(place, what);
    let messages = messages(line).map_err(wrong)?;
    let Encoding { template, tokenizer, parse_special } = encoding;
    if !parse_special {
        for (i, message) in messages.iter().enumerate() {
            if tokenizer.encode(&message.content, true)? != tokenizer.encode(&message.content, false)? {
                return Err(wrong(format!(
                    "message {} spells out a special token of the tokenizer, which would end or begin a turn; take it out, \
                     or set data.parse_special = true if it is meant",
                    i + 1
                )));
            }
        }
    }
    let (text, answers) = spans(&messages, template).context(|| place.to_string())?;
    let mut encoded = Encoded { tokens: Vec::new(), learn: Vec::new() };
    let mut push = |part: &str, learn: u8| -> Result<()> {
        tokenizer.encode_into(part, true, &mut encoded.tokens).context(|| place.to_string())?;
        encoded.learn.resize(encoded.tokens.len(), learn);
        Ok(())
    };
    let mut end = 0;
    for answer in answers {
        push(&text[end..answer.start], 0)?;
        push(&text[answer.clone()], 1)?;
        end = answer.end;
    }
    push(&text[end..], 0)?;
    Ok(encoded)
}

/// The text of a conversation and the places of its answers.
fn spans(messages: &[Message], template: &ChatTemplate) -> Result<(String, Vec<std::ops::Range<usize>>)> {
    let text = template.render(messages, false)?;
    let mut answers: Vec<std::ops::Range<usize>> = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        if message.role != "assistant" {
            continue;
        }
        let prompt = template.render(&messages[..i], true)?;
        let through = template.render(&messages[..=i], false)?;
        if !through.starts_with(&prompt) || !text.starts_with(&through) {
            return Err(Error::data(
                "chat template",
                format!(
                    "the text up to message {} does not begin the text of the whole conversation, so it is not known which \
                     part is the assistant's; give a template that writes each message alike wherever it stands \
                     (data.chat_template)",
                    i + 1
                ),
            ));
        }
        // A template without a generation prompt leaves the turn's head to the answer.
        let start = prompt.len().max(answers.last().map_or(0, |last| last.end));
        answers.push(start..through.len().max(start));
    }
    Ok((text, answers))
}
