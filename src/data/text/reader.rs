//! What readers of every format have in common.

use std::path::Path;

use crate::error::{Error, Result};

/// A reader of one source: whole documents, or pieces of one, with the place and whether a document starts.
pub(in crate::data) trait Reader: Send {
    /// The next non-empty text.
    fn next_text(&mut self) -> Result<Option<(String, bool, u64)>>;
}

/// A read error, with a word on broken compression, whose own messages are terse.
pub(in crate::data) fn read_error(path: &Path, error: std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match error.kind() {
        UnexpectedEof => Error::data(path, "the compressed file ends too early: it is truncated; get it again"),
        InvalidData | InvalidInput | Other => {
            Error::data(path, format!("the file cannot be unpacked ({error}); it is damaged or not what its name says"))
        }
        _ => Error::io("read", path)(error),
    }
}

/// The sentence for a column that is not there.
pub(in crate::data) fn no_column(column: &str, what: &str, there: &[String]) -> String {
    let list = if there.is_empty() { "none".to_string() } else { there.join(", ") };
    format!("there is no {what} {column:?}; there are: {list}; choose one with --text-column (data.text_column)")
}
