//! From a file of examples to texts.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};

use super::TaskKind;
use crate::error::{Error, Result};

/// An example as text.
#[derive(Debug)]
pub(super) struct Text {
    /// Its line, counted from 1.
    pub line: u64,
    pub context: String,
    /// What may follow the context, the blank between included, with the bytes of its text without that blank.
    pub continuations: Vec<(String, usize)>,
    /// The right one.
    pub answer: usize,
}

/// The first `max` examples of a file, one JSON object a line; empty lines are passed over.
pub(super) fn examples(kind: TaskKind, path: &Path, max: Option<u64>) -> Result<Vec<Text>> {
    let mut input = BufReader::new(File::open(path).map_err(Error::io("read", path))?);
    let mut found = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if max.is_some_and(|max| found.len() as u64 >= max)
            || input.read_until(b'\n', &mut bytes).map_err(Error::io("read", path))? == 0
        {
            break;
        }
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").filter(|_| line == 1).unwrap_or(&bytes);
        if text.trim_ascii().is_empty() {
            continue;
        }
        let wrong = |message: String| Error::data(format!("{}:{line}", path.display()), message);
        let object: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| wrong(format!("not a JSON object: {error}")))?;
        let fields = Fields(object);
        let example = match kind {
            TaskKind::Hellaswag => hellaswag(&fields),
            TaskKind::Lambada => lambada(&fields),
            TaskKind::MultipleChoice => multiple_choice(&fields),
        };
        let (context, continuations, answer) =
            example.map_err(|message| wrong(format!("no example of {}: {message}", kind.name())))?;
        if answer >= continuations.len() {
            return Err(wrong(format!(
                "the answer is {answer}, counted from 0, and there are {} choices",
                continuations.len()
            )));
        }
        found.push(Text { line, context, continuations, answer });
    }
    Ok(found)
}

type Parts = std::result::Result<(String, Vec<(String, usize)>, usize), String>;

/// `ctx`, `endings` and `label`: the official file, whose other fields are not needed.
fn hellaswag(fields: &Fields) -> Parts {
    Ok((fields.text("ctx")?.into(), fields.choices("endings")?, fields.index("label")?))
}

/// `text`: the last word, parted by a blank, is the target.
fn lambada(fields: &Fields) -> Parts {
    let text = fields.text("text")?.trim_end();
    let (context, word) =
        text.rsplit_once(' ').ok_or("\"text\" has a single word, and nothing before it to predict it from")?;
    Ok((context.into(), vec![(format!(" {word}"), word.len())], 0))
}

/// `context` or `question`, `choices` and `answer`.
fn multiple_choice(fields: &Fields) -> Parts {
    let context = match (fields.0.get("context"), fields.0.get("question")) {
        (Some(_), Some(_)) => {
            return Err("it has both \"context\" and \"question\"; write one, as the model shall read it".into());
        }
        (None, _) => {
            fields.text("question").map_err(|_| "it has no text \"context\" (nor \"question\")".to_string())?
        }
        _ => fields.text("context")?,
    };
    Ok((context.into(), fields.choices("choices")?, fields.index("answer")?))
}

/// The fields of a line.
struct Fields(Map<String, Value>);

impl Fields {
    fn get(&self, name: &str) -> std::result::Result<&Value, String> {
        self.0.get(name).ok_or_else(|| {
            let names: Vec<String> = self.0.keys().take(12).map(|name| format!("{name:?}")).collect();
            format!(
                "it has no field {name:?}; it has {}",
                if names.is_empty() { "none".into() } else { names.join(", ") }
            )
        })
    }

    fn text(&self, name: &str) -> std::result::Result<&str, String> {
        self.get(name)?.as_str().ok_or_else(|| format!("{name:?} is not a text"))
    }

    /// A list of texts, none of them empty, each with the blank that parts it from the context.
    fn choices(&self, name: &str) -> std::result::Result<Vec<(String, usize)>, String> {
        let list = self.get(name)?.as_array().filter(|list| list.len() >= 2);
        let list = list.ok_or_else(|| format!("{name:?} is not a list of two or more texts"))?;
        let text = |(place, value): (usize, &Value)| match value.as_str() {
            Some(text) if !text.trim().is_empty() => Ok((format!(" {text}"), text.len())),
            Some(_) => Err(format!("number {place} of {name:?}, counted from 0, is empty")),
            None => Err(format!("number {place} of {name:?}, counted from 0, is not a text")),
        };
        list.iter().enumerate().map(text).collect()
    }

    /// The number of a choice, counted from 0: a whole number, its digits as a text, or a letter from A on.
    fn index(&self, name: &str) -> std::result::Result<usize, String> {
        let value = self.get(name)?;
        let index = match value {
            Value::String(text) => match text.as_bytes() {
                &[letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
                _ => text.parse().ok(),
            },
            value => value.as_u64().and_then(|index| usize::try_from(index).ok()),
        };
        index.ok_or_else(|| {
            format!("{name:?} is {value}: expected the number of the right choice, counted from 0, or its letter")
        })
    }
}
