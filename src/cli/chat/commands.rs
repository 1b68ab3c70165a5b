//! The commands of `taper chat`, and the settings that `/set` changes.

use std::fmt::Display;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::sample::conversation::Settings;

pub(crate) const HELP: &str = "\
/help              this list
/reset             begin again (the system message stays)
/system [TEXT]     set what the model is told first; without a text, remove it
/regen             another answer to the last question
/save FILE         add the conversation to a file, as a line of JSON
/set [KEY=VALUE]   show or change temperature, top_k, top_p, min_p (top_k=off),
                   repetition_penalty, seed, max_new_tokens
/quit              leave, as Ctrl-D does
A line that ends with \\ continues with the next one. A text that starts with /
is written //. Ctrl-C stops an answer.";

/// What a line of input asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// Something for the model.
    Say(String),
    Help,
    Reset,
    System(Option<String>),
    /// Another answer in place of the last.
    Again,
    Save(String),
    Set(String, String),
    /// What `/set` alone does.
    Show,
    Quit,
}

impl Command {
    /// Reads a line: a command if it starts with a single slash.
    ///
    /// # Errors
    /// `Usage` for a command that does not exist or lacks what it needs.
    pub(crate) fn parse(line: &str) -> Result<Command> {
        let Some(command) = line.strip_prefix('/') else { return Ok(Command::Say(line.to_string())) };
        if command.starts_with('/') {
            return Ok(Command::Say(command.to_string()));
        }
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        Ok(match (word, rest) {
            ("help" | "?", _) => Command::Help,
            ("reset", _) => Command::Reset,
            ("system", "") => Command::System(None),
            ("system", text) => Command::System(Some(text.to_string())),
            ("regen", _) => Command::Again,
            ("save", "") => return Err(Error::usage("/save wants a file: /save conversation.jsonl")),
            ("save", path) => Command::Save(path.to_string()),
            ("set", "") => Command::Show,
            ("set", pair) => match pair.split_once('=') {
                Some((key, value)) => Command::Set(key.trim().replace('-', "_"), value.trim().to_string()),
                None => return Err(Error::usage("/set wants KEY=VALUE, as in /set temperature=0.7")),
            },
            ("quit" | "exit", _) => Command::Quit,
            _ => {
                return Err(Error::usage(format!(
                    "there is no command /{word}; /help lists them, and // begins a text with a slash"
                )));
            }
        })
    }
}

/// The settings in one line, as `/set` takes them.
pub(crate) fn show(settings: &Settings) -> String {
    fn off<T: Display>(value: Option<T>) -> String {
        value.map_or("off".to_string(), |value| value.to_string())
    }
    let sampler = &settings.sampler;
    format!(
        "temperature={} top_k={} top_p={} min_p={} repetition_penalty={} seed={} max_new_tokens={}",
        sampler.temperature,
        off(sampler.top_k),
        off(sampler.top_p),
        off(sampler.min_p),
        sampler.repetition_penalty,
        sampler.seed,
        settings.max_new_tokens
    )
}

/// Changes one setting, or none if the value is wrong.
///
/// # Errors
/// `Usage` for a key that does not exist or a value out of range.
pub(crate) fn apply(settings: &mut Settings, key: &str, value: &str) -> Result<()> {
    let mut new = settings.clone();
    match key {
        "temperature" => new.sampler.temperature = read(key, value)?,
        "top_k" => new.sampler.top_k = read_or_off(key, value)?,
        "top_p" => new.sampler.top_p = read_or_off(key, value)?,
        "min_p" => new.sampler.min_p = read_or_off(key, value)?,
        "repetition_penalty" => new.sampler.repetition_penalty = read(key, value)?,
        "seed" => new.sampler.seed = read(key, value)?,
        "max_new_tokens" => new.max_new_tokens = read(key, value)?,
        _ => {
            let keys = "temperature, top_k, top_p, min_p, repetition_penalty, seed, max_new_tokens";
            return Err(Error::usage(format!("there is no setting {key:?}; there are {keys}")));
        }
    }
    new.sampler.validate()?;
    if new.max_new_tokens == 0 {
        return Err(Error::usage("max_new_tokens must be at least 1"));
    }
    *settings = new;
    Ok(())
}

fn read<T: FromStr>(key: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| Error::usage(format!("{key} cannot be {value:?}; it takes a number")))
}

fn read_or_off<T: FromStr>(key: &str, value: &str) -> Result<Option<T>> {
    if value == "off" { Ok(None) } else { read(key, value).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::SamplerConfig;

    #[test]
    fn lines_are_texts_or_commands() {
        let say = |text: &str| Command::Say(text.into());
        let cases = [
            ("hello", say("hello")),
            ("", say("")),
            ("//etc", say("/etc")),
            ("a /help", say("a /help")),
            ("/help", Command::Help),
            ("/system  You are brief. ", Command::System(Some("You are brief.".into()))),
            ("/system", Command::System(None)),
            ("/set top-k = 5", Command::Set("top_k".into(), "5".into())),
            ("/set", Command::Show),
            ("/save a b.jsonl", Command::Save("a b.jsonl".into())),
            ("/regen", Command::Again),
            ("/exit", Command::Quit),
        ];
        for (line, expected) in cases {
            assert_eq!(Command::parse(line).unwrap(), expected, "{line}");
        }
        for line in ["/nothing", "/save", "/set temperature", "/ "] {
            assert_eq!(Command::parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn settings_change_one_by_one_or_not_at_all() {
        let mut settings = Settings { sampler: SamplerConfig::default(), max_new_tokens: 9 };
        for (key, value) in [("temperature", "0.5"), ("top_k", "3"), ("top_p", "0.9"), ("min_p", "off"), ("seed", "8")]
        {
            apply(&mut settings, key, value).unwrap();
        }
        let expected = "temperature=0.5 top_k=3 top_p=0.9 min_p=off repetition_penalty=1 seed=8 max_new_tokens=9";
        assert_eq!(show(&settings), expected);
        for (key, value) in [("temperature", "-1"), ("top_k", "0"), ("top_p", "x"), ("max_new_tokens", "0"), ("x", "1")]
        {
            assert_eq!(apply(&mut settings, key, value).unwrap_err().exit_code(), 2);
            assert_eq!(show(&settings), expected);
        }
    }
}
