//! A conversation with a model: what was said, what of it still fits the context, and the next answer.
//!
//! A model with a chat template is asked as the template says. A base model has none: then the text of the conversation is
//! all there is, each input standing on a line of its own, and the model continues it.
//!
//! The key-value cache of what was said already is kept from turn to turn; only what is new is fed. So an answer is a
//! function of the whole conversation as it went, and the same inputs give the same conversation.

use super::session::{Plan, step};
use super::{FinishReason, SamplerConfig, Session, prompt_tokens};
use crate::data::tokenizer::Tokenizer;
use crate::data::{ChatTemplate, Message};
use crate::decode::Decode;
use crate::error::{Error, Result};

/// How answers are generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How tokens are chosen.
    pub sampler: SamplerConfig,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
}

/// What one side said and what the model answered.
#[derive(Clone, Debug, PartialEq)]
struct Turn {
    input: String,
    answer: String,
}

/// An answer, or what there is of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// How many tokens it took.
    pub tokens: usize,
    /// Why it ended; none if it was stopped from outside.
    pub finish: Option<FinishReason>,
    /// How many of the oldest turns left the context before it.
    pub dropped: usize,
    /// Whether the context was full at its end.
    pub full: bool,
}

/// A conversation on slot 0 of an engine.
pub struct Conversation {
    engine: Box<dyn Decode>,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    end: Vec<u32>,
    system: Option<String>,
    turns: Vec<Turn>,
    /// Turns before this one no longer fit the context.
    first: usize,
    /// What the engine's slot holds.
    fed: Vec<u32>,
    /// Answers so far: each draws its own random numbers.
    answers: u64,
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation").field("turns", &self.turns).finish_non_exhaustive()
    }
}

impl Conversation {
    /// A conversation that has not begun. An answer ends at any token of `end`, and where the template ends a turn.
    pub fn new(
        engine: Box<dyn Decode>,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        mut end: Vec<u32>,
    ) -> Conversation {
        end.extend(template.as_ref().and_then(|template| template.end_of_turn(&tokenizer)));
        let (turns, fed) = (Vec::new(), Vec::new());
        Conversation { engine, tokenizer, template, end, system: None, turns, first: 0, fed, answers: 0 }
    }

    /// Whether the model has a chat template; otherwise it continues the text.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// The engine's context in tokens.
    pub fn context(&self) -> usize {
        self.engine.capacity()
    }

    /// Begins again: everything said is forgotten, the system message stays.
    pub fn reset(&mut self) {
        self.turns.clear();
        (self.first, self.answers) = (0, 0);
    }

    /// Sets the message that stands before all others, or removes it.
    ///
    /// # Errors
    /// `Usage` for a base model, which has no such thing, and where the template has no place for it.
    pub fn set_system(&mut self, system: Option<String>) -> Result<()> {
        let Some(template) = &self.template else {
            return Err(Error::usage("a base model takes no system message; write it at the beginning of the text"));
        };
        if let Some(text) = &system {
            template.render(&[Message::new("system", text), Message::new("user", "")], true)?;
        }
        self.system = system;
        Ok(())
    }

    /// The answer to `input`, given piece by piece to `on_text` while it is written; `stop` is asked after each token.
    ///
    /// # Errors
    /// `Usage` if the input alone does not fit the context or the template refuses it: the conversation is as before. Those
    /// of the engine: what was written so far stays, as after a stop.
    pub fn answer(
        &mut self,
        input: &str,
        settings: &Settings,
        stop: &dyn Fn() -> bool,
        on_text: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answer> {
        self.turns.push(Turn { input: input.to_string(), answer: String::new() });
        self.run(settings, stop, on_text)
    }

    /// Another answer in place of the last one; `None` if there is none.
    ///
    /// # Errors
    /// As [`Conversation::answer`].
    pub fn answer_again(
        &mut self,
        settings: &Settings,
        stop: &dyn Fn() -> bool,
        on_text: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Option<Answer>> {
        match self.turns.last_mut() {
            Some(last) => last.answer.clear(),
            None => return Ok(None),
        }
        self.run(settings, stop, on_text).map(Some)
    }

    /// Everything said, the oldest first: messages, or one message of role `text` where there is no template.
    pub fn messages(&self) -> Vec<Message> {
        match self.template {
            Some(_) => self.messages_from(0, false),
            None => vec![Message::new("text", self.text_from(0))],
        }
    }

    fn run(
        &mut self,
        settings: &Settings,
        stop: &dyn Fn() -> bool,
        on_text: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answer> {
        let (prompt, dropped) = self.prompt(settings.max_new_tokens).inspect_err(|_| {
            self.turns.pop();
        })?;
        let common = self.fed.iter().zip(&prompt).take_while(|(a, b)| a == b).count().min(prompt.len() - 1);
        self.engine.truncate(0, common);
        let plan = Plan {
            max_new_tokens: settings.max_new_tokens,
            stop: Vec::new(),
            end: self.end.clone(),
            sampler: settings.sampler.clone(),
            sample: self.answers,
            top_logprobs: 0,
        };
        self.answers += 1;
        let mut session = Session::new(&self.tokenizer, prompt, self.engine.capacity(), plan)?;
        let result = write(&mut *self.engine, &mut session, stop, on_text);
        self.fed = session.history()[..self.engine.len(0)].to_vec();
        let full = session.history().len() > self.engine.capacity();
        let (text, tokens) = (session.text().to_string(), session.new_tokens());
        if let Some(last) = self.turns.last_mut() {
            last.answer = text.clone();
        }
        result.map(|finish| Answer { text, tokens, finish, dropped, full })
    }

    /// The tokens of the conversation up to the next answer, and how many turns had to leave so that they fit: an answer
    /// shall have room for its tokens, or for a quarter of the context.
    fn prompt(&mut self, max_new_tokens: usize) -> Result<(Vec<u32>, usize)> {
        let context = self.engine.capacity();
        let room = max_new_tokens.min(context / 4);
        let before = self.first;
        for first in before..self.turns.len() {
            let tokens = match &self.template {
                Some(template) => {
                    let text = template.render(&self.messages_from(first, true), true)?;
                    self.tokenizer.encode(&text, true)?
                }
                None => prompt_tokens(&self.tokenizer, &self.text_from(first))?,
            };
            let last = first + 1 == self.turns.len();
            if tokens.is_empty() {
                return Err(Error::usage("the chat template makes no text of this conversation"));
            }
            let below = self.engine.config().vocab_size;
            if let Some(id) = tokens.iter().find(|&&id| id as usize >= below) {
                return Err(Error::usage(format!(
                    "this needs the token {id}, and the model knows only those below {below}"
                )));
            }
            if tokens.len() + room <= context || (last && tokens.len() <= context) {
                self.first = first;
                return Ok((tokens, first - before));
            }
            if last {
                let count = tokens.len();
                return Err(Error::usage(format!(
                    "this alone takes {count} tokens, and the model's context holds {context}; say less at a time"
                )));
            }
        }
        Err(Error::usage("nothing was said yet"))
    }

    /// The messages from a turn on, the last answer left out where it is yet to come.
    fn messages_from(&self, first: usize, open: bool) -> Vec<Message> {
        let mut messages: Vec<Message> = self.system.iter().map(|text| Message::new("system", text)).collect();
        for turn in &self.turns[first..] {
            messages.push(Message::new("user", &turn.input));
            messages.push(Message::new("assistant", &turn.answer));
        }
        if open {
            messages.pop();
        }
        messages
    }

    /// The text from a turn on: inputs and continuations, each input on a line of its own.
    fn text_from(&self, first: usize) -> String {
        let mut text = String::new();
        for turn in &self.turns[first..] {
            if !text.is_empty() && !turn.input.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&turn.input);
            text.push_str(&turn.answer);
        }
        text
    }
}

/// Runs a session to its end or until `stop` says so (then the reason is none).
fn write(
    engine: &mut dyn Decode,
    session: &mut Session<'_>,
    stop: &dyn Fn() -> bool,
    on_text: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Option<FinishReason>> {
    let mut logits = Vec::new();
    loop {
        let mut steps = step(engine, &mut [(0, &mut *session)], &mut logits)?;
        let step = steps.pop().expect("one text in, one step out")?;
        if !step.text.is_empty() {
            on_text(&step.text)?;
        }
        if step.finish.is_some() {
            return Ok(step.finish);
        }
        if stop() {
            let rest = session.cut();
            if !rest.is_empty() {
                on_text(&rest)?;
            }
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ModelConfig;
    use crate::decode::Tensors;
    use crate::model::Gpt;
    use std::cell::Cell;

    const TEMPLATE: &str = "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}\n{% endfor %}{% if \
        add_generation_prompt %}<a>{% endif %}";

    fn conversation(template: bool, context: usize) -> Conversation {
        let config = ModelConfig::gpt2(1, 2, 16, context, 257);
        let model = Gpt::new(config).unwrap();
        let params = model.initialise(2).unwrap();
        let template = template.then(|| ChatTemplate::from_source(TEMPLATE, "", "").unwrap());
        let engine = Box::new(Tensors::new(model, params, 1, context));
        Conversation::new(engine, Tokenizer::bytes(), template, vec![256])
    }

    fn settings(max_new_tokens: usize) -> Settings {
        Settings { sampler: SamplerConfig { temperature: 0.0, ..Default::default() }, max_new_tokens }
    }

    fn say(conversation: &mut Conversation, input: &str, most: usize) -> Result<Answer> {
        let mut shown = String::new();
        let answer = conversation.answer(input, &settings(most), &|| false, &mut |text| {
            shown.push_str(text);
            Ok(())
        })?;
        assert_eq!(shown, answer.text);
        Ok(answer)
    }

    #[test]
    fn turns_are_written_as_the_template_says_and_the_cache_goes_on() {
        let mut talk = conversation(true, 200);
        talk.set_system(Some("S".into())).unwrap();
        let first = say(&mut talk, "one", 5).unwrap();
        assert_eq!((first.tokens, first.finish, first.dropped), (5, Some(FinishReason::Length), 0));
        let prompt = "<s>S\n<u>one\n<a>";
        assert_eq!(talk.fed[..prompt.len()], Tokenizer::bytes().encode(prompt, true).unwrap());
        // All but the last token, which need not be fed, stays for the next turn.
        assert_eq!(talk.fed.len(), prompt.len() + 4);
        say(&mut talk, "two", 5).unwrap();
        let roles: Vec<String> = talk.messages().iter().map(|message| message.role.clone()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
        // Greedily, the same question gets the same answer; the turn is replaced, not added.
        let last = talk.messages()[4].clone();
        talk.answer_again(&settings(5), &|| false, &mut |_| Ok(())).unwrap().unwrap();
        assert_eq!((talk.messages().len(), &talk.messages()[4]), (5, &last));
        talk.reset();
        assert_eq!(talk.messages().len(), 1);
        assert!(talk.answer_again(&settings(5), &|| false, &mut |_| Ok(())).unwrap().is_none());
        assert_eq!(say(&mut talk, "one", 5).unwrap(), first);
    }

    #[test]
    fn a_base_model_continues_the_text_and_takes_no_system_message() {
        let mut talk = conversation(false, 100);
        assert!(talk.set_system(Some("S".into())).is_err());
        let first = say(&mut talk, "Once", 4).unwrap();
        let second = say(&mut talk, "", 4).unwrap();
        let third = say(&mut talk, "Then", 4).unwrap();
        let expected = format!("Once{}{}\nThen{}", first.text, second.text, third.text);
        assert_eq!(talk.messages(), [Message::new("text", expected)]);
    }

    #[test]
    fn the_oldest_turns_leave_a_full_context_and_stay_in_the_record() {
        let mut talk = conversation(true, 60);
        let mut dropped = 0;
        for _ in 0..6 {
            let answer = say(&mut talk, "0123456789", 8).unwrap();
            dropped += answer.dropped;
            assert!(!answer.full);
        }
        assert!((3..6).contains(&dropped), "{dropped}");
        assert_eq!(talk.messages().len(), 12);
        // What alone does not fit is refused, and the conversation is as before.
        let error = say(&mut talk, &"x".repeat(60), 8).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("context holds 60"), "{error}");
        assert_eq!(talk.messages().len(), 12);
        // What just fits leaves no more room than there is.
        let answer = say(&mut talk, &"x".repeat(50), 8).unwrap();
        assert_eq!((answer.tokens, answer.full), (4, true));
    }

    #[test]
    fn a_stop_ends_the_answer_and_keeps_what_was_said() {
        let mut talk = conversation(true, 100);
        let asked = Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() == 3
        };
        let answer = talk.answer("hello", &settings(50), &stop, &mut |_| Ok(())).unwrap();
        assert_eq!((answer.tokens, answer.finish), (3, None));
        assert_eq!(talk.messages()[1].content, answer.text);
        say(&mut talk, "again", 3).unwrap();
    }
}
