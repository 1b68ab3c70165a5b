//! Reading JSON lines: one object a line, and one field of it is a document.
//!
//! Only the one field is built; the rest of each object is parsed, so that damage shows, and skipped.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::data::text::reader::{Reader, no_column, read_error};
use crate::error::{Error, Result};

/// The longest line of JSON that is read: a longer one is surely not JSON *lines*.
pub const MAX_LINE_BYTES: usize = 256 << 20;

/// JSON lines: one object a line, one document each.
pub(in crate::data) struct LineReader {
    input: BufReader<Box<dyn Read + Send>>,
    path: PathBuf,
    column: String,
    line: u64,
}

impl Reader for LineReader {
    fn next_text(&mut self) -> Result<Option<(String, bool, u64)>> {
        while let Some(line) = self.next_line()? {
            match self.parse(&line)? {
                text if text.is_empty() => {}
                text => return Ok(Some((text, true, self.line))),
            }
        }
        Ok(None)
    }
}

impl LineReader {
    /// Reads the text in the field `column` of each line.
    pub fn new(path: &Path, input: Box<dyn Read + Send>, column: &str) -> LineReader {
        let input = BufReader::with_capacity(256 << 10, input);
        LineReader { input, path: path.to_path_buf(), column: column.to_string(), line: 0 }
    }

    /// The next line that is not blank, without a byte order mark.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let mut bytes = Vec::new();
            let limit = MAX_LINE_BYTES as u64 + 1;
            let count = self.input.by_ref().take(limit).read_until(b'\n', &mut bytes);
            if count.map_err(|error| read_error(&self.path, error))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if bytes.len() > MAX_LINE_BYTES {
                let message =
                    format!("the line is longer than {} MiB: is this really JSON lines?", MAX_LINE_BYTES >> 20);
                return Err(self.wrong(1, message));
            }
            if self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
                bytes.drain(..3);
            }
            if !bytes.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(bytes));
            }
        }
    }

    /// The number of the line that was read last, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// An error at a column of the current line, as `file:line:column`.
    fn wrong(&self, column: usize, message: String) -> Error {
        Error::data(format!("{}:{}:{column}", self.path.display(), self.line), message)
    }

    fn parse(&self, line: &[u8]) -> Result<String> {
        let mut parser = serde_json::Deserializer::from_slice(line);
        let found = Field(&self.column).deserialize(&mut parser).and_then(|found| parser.end().map(|()| found));
        match found {
            Ok(Ok(text)) => Ok(text.unwrap_or_default()),
            Ok(Err(names)) => Err(self.wrong(1, no_column(&self.column, "field", &names))),
            Err(error) => {
                let message = format!("not a line of JSON with text in {:?}: {}", self.column, without_line(&error));
                Err(self.wrong(error.column(), message))
            }
        }
    }
}

/// What is wrong with a line of JSON, without the place: the line that serde counts is always the first.
pub(in crate::data) fn without_line(error: &serde_json::Error) -> String {
    let full = error.to_string();
    full.rsplit_once(" at line ").map_or(full.as_str(), |(what, _)| what).to_string()
}

/// Takes one field of an object and skips the rest: the text (`None` for null), or the names of the fields there are.
struct Field<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = std::result::Result<Option<String>, Vec<String>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = std::result::Result<Option<String>, Vec<String>>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut names) = (None, Vec::new());
        while let Some(key) = map.next_key::<std::borrow::Cow<str>>()? {
            if key == self.0 {
                found = Some(map.next_value::<Option<String>>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
                names.push(key.into_owned());
            }
        }
        Ok(found.ok_or(names))
    }
}
