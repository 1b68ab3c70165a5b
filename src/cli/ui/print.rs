//! Standard output: the answer of a command, and nothing else.

use crate::error::{Error, Result};

/// Writes bytes to standard output, where a reader that has gone away is an `Err` that `main` treats as success.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Error::io("write", "standard output"))
}

/// Writes a line to standard output; see [`print_bytes`].
pub(crate) fn print_line(line: &str) -> Result<()> {
    print_bytes(format!("{line}\n").as_bytes())
}

/// Prints one JSON object on standard output.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<()> {
    print_line(&value.to_string())
}
