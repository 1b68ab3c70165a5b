//! From text to keys with places, and from keys to the structs.
//!
//! Serde could parse the text into the structs in one call, but its messages know neither the section nor what would have
//! been right. So the text is read into a flat list of [`Entry`]s first, each with its place; names are looked up in the
//! schema, and each value is tried on its own key alone, so that an error has exactly one place.

use std::ops::Range;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::schema::{self, Key, Section};
use super::write::literal;
use super::{Config, names};
use crate::error::{Error, Result};
use crate::setting::Problem;

/// A text and what messages call it.
pub(super) struct Source<'a> {
    pub origin: &'a str,
    pub text: &'a str,
}

/// Where a value was written.
pub(super) enum Place {
    /// In the file, at these bytes (of the value).
    File(Range<usize>),
    /// In an override, which is repeated in messages.
    Override(String),
}

/// One written key.
pub(super) struct Entry {
    pub section: &'static Section,
    pub key: &'static Key,
    pub value: toml::Value,
    pub place: Place,
}

impl Entry {
    /// The key as `section.key`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section.name, self.key.name)
    }
}

impl Source<'_> {
    /// An error at a place in the text: `file:line:column: message`, the line, and a mark below it.
    fn error(&self, span: Range<usize>, message: &str) -> Error {
        let bytes = self.text.as_bytes();
        let start = span.start.min(bytes.len());
        let line_start = bytes[..start].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let line_end =
            bytes[start..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |newline| start + newline);
        let number = bytes[..line_start].iter().filter(|&&byte| byte == b'\n').count() + 1;
        // Lossy, because nothing promises that a parser's span falls between characters.
        let before = String::from_utf8_lossy(&bytes[line_start..start]).replace('\t', " ");
        let end = span.end.clamp(start, line_end);
        let marked = String::from_utf8_lossy(&bytes[start..end]).chars().count().max(1);
        let line = String::from_utf8_lossy(&bytes[line_start..line_end]).replace('\t', " ");
        let column = before.chars().count() + 1;
        let head = format!("{}:{number}:{column}: {}", self.origin, without_secrets(message));
        // A line that does not fit on a screen, or holds control characters, explains nothing.
        let line = without_secrets(line.trim_end());
        if line.chars().count() > 160 || line.chars().any(char::is_control) {
            return Error::Usage(head);
        }
        let gutter = number.to_string();
        let blank = " ".repeat(gutter.len());
        let mark = format!("{}{}", " ".repeat(column - 1), "^".repeat(marked));
        Error::Usage(format!("{head}\n {blank} |\n {gutter} | {line}\n {blank} | {mark}"))
    }
}

/// A text in which access tokens are stars: someone may have put theirs where it does not belong, and messages are
/// pasted into issues. A token of the Hub begins with `hf_`; what a key called `token` is given is one, whatever it
/// looks like.
fn without_secrets(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let (before, from) = rest.split_at(start);
        let (word, after) = from.split_at(from.find(|c| !is_word(c)).unwrap_or(from.len()));
        shown.push_str(before);
        let is_token = word.len() > 10 && word.starts_with("hf_");
        shown.push_str(&if is_token { "*".repeat(word.len()) } else { word.into() });
        rest = after;
    }
    shown.push_str(rest);
    match shown.split_once('=') {
        Some((key, value)) if matches!(key.trim().rsplit('.').next(), Some("token" | "hf_token")) => {
            let stars: String = value.chars().map(|c| if c.is_whitespace() { c } else { '*' }).collect();
            format!("{key}={stars}")
        }
        _ => shown,
    }
}

/// Reads the text into entries, in the order of the file's sections.
///
/// # Errors
/// `Usage`: not TOML, an unknown section or key, a key outside the sections.
pub(super) fn read(source: &Source) -> Result<Vec<Entry>> {
    let not_toml = |error: toml::de::Error| {
        let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        source.error(error.span().unwrap_or(0..0), &message)
    };
    // The same text twice: the first parse gives places, the second plain values (and the errors of numbers too large).
    let placed = DeTable::parse(source.text).map_err(not_toml)?;
    let values: toml::Table = source.text.parse().map_err(not_toml)?;
    let mut entries = Vec::new();
    for (name, content) in placed.get_ref() {
        let DeValue::Table(keys) = content.get_ref() else {
            let message = match schema::find(name.get_ref()) {
                Some(section) if matches!(content.get_ref(), DeValue::Array(_)) => {
                    format!("[{0}] is not a list of sections; write [{0}], once, and its keys below it", section.name)
                }
                Some(section) => format!("{0} is a section; write [{0}] and its keys below it", section.name),
                None => names::outside(name.get_ref()),
            };
            return Err(source.error(name.span(), &message));
        };
        let section = schema::find(name.get_ref())
            .ok_or_else(|| source.error(name.span(), &names::unknown_section(name.get_ref())))?;
        for (key_name, placed_value) in keys {
            let key = section
                .key(key_name.get_ref())
                .ok_or_else(|| source.error(key_name.span(), &names::unknown_key(section, key_name.get_ref())))?;
            let value = values.get(name.get_ref().as_ref()).and_then(|keys| keys.get(key_name.get_ref().as_ref()));
            let Some(value) = value.cloned() else { continue };
            let entry = Entry { section, key, value, place: Place::File(placed_value.span()) };
            if let Some(message) = misfit(&entry) {
                return Err(source.error(placed_value.span(), &message));
            }
            entries.push(entry);
        }
    }
    Ok(entries)
}

/// What is wrong with a value by itself, if anything: its type, or a word that its key does not know.
pub(super) fn misfit(entry: &Entry) -> Option<String> {
    let keys = toml::Table::from_iter([(entry.key.name.clone(), entry.value.clone())]);
    let sections = toml::Table::from_iter([(entry.section.name.clone(), toml::Value::Table(keys))]);
    if Config::deserialize(sections).is_ok() {
        return None;
    }
    let expected = &entry.key.expected;
    let mut message = format!("{} = {}: expected {expected}", entry.path(), names::shown(&literal(&entry.value)));
    let number = expected.contains("number");
    match &entry.value {
        toml::Value::Float(value) if number && value.fract() == 0.0 && (0.0..9e15).contains(value) => {
            message += &format!("; write {value}");
        }
        toml::Value::String(text) if number && text.parse::<f64>().is_ok() => message += "; write it without quotes",
        toml::Value::String(text) if expected == "true or false" && matches!(&text[..], "true" | "false") => {
            message += "; write it without quotes";
        }
        toml::Value::String(text) => {
            let words = entry.key.words.iter().map(|(word, _)| &word[..]);
            if let Some(word) = names::nearest(text, words) {
                message += &format!("; did you mean {word:?}?");
            }
        }
        _ => {}
    }
    Some(message)
}

/// Puts the entries into the structs.
///
/// # Errors
/// `Usage`; entries that passed [`misfit`] give none.
pub(super) fn assemble(entries: &[Entry], source: &Source) -> Result<Config> {
    let mut table = toml::Table::new();
    for entry in entries {
        let section = table.entry(entry.section.name.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let toml::Value::Table(keys) = section {
            keys.insert(entry.key.name.clone(), entry.value.clone());
        }
    }
    Config::deserialize(table).map_err(|error| Error::usage(format!("{}: {}", source.origin, error.message())))
}

/// The error for a problem with a key, at the place where that key was written.
pub(super) fn locate(problem: &Problem, entries: &[Entry], source: &Source) -> Error {
    // Two keys contradict each other, and only the other one is written: then that is the place.
    let named = |entry: &&Entry| problem.message.split([' ', ';', ',']).any(|word| word == entry.path());
    let written = entries.iter().find(|entry| entry.path() == problem.key);
    match written.or_else(|| entries.iter().find(named)).map(|entry| &entry.place) {
        Some(Place::File(span)) => source.error(span.clone(), &problem.message),
        Some(Place::Override(given)) => Error::usage(format!("{given}: {}", problem.message)),
        None => Error::usage(format!("{}: {}", source.origin, problem.message)),
    }
}
