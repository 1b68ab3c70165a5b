//! The frame of a page that is not about a single run: head, style, body, and files that appear whole.

use std::path::PathBuf;

use super::escape::escape;
use super::page::style;
use crate::error::Result;

/// What wide tables need beyond the style of run pages.
const TABLES: &str = "\
.wide-table{overflow-x:auto;width:max-content;min-width:100%;max-width:calc(100vw - 2rem);margin-left:50%;\
transform:translateX(-50%);font-size:.875rem}
.wide-table th,.wide-table td{white-space:nowrap;width:auto;overflow-wrap:normal;padding-right:.6rem}
.wide-table thead th{color:var(--text);font-weight:600;min-width:0}
.wide-table td.verdict,.wide-table th.verdict{white-space:normal;min-width:9.5rem}
td.number,th.number{text-align:right}
@media (max-width:640px){.wide-table th:first-child{white-space:normal;overflow-wrap:anywhere;min-width:4.5rem}
.wide-table td.verdict,.wide-table th.verdict{min-width:7.5rem}}
";

/// A self-contained page: `title` as plain text, `body` as HTML.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<link rel=\"icon\" href=\"data:,\">\n\
         <style>\n{}{TABLES}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        style(&[])
    )
}

/// Text as HTML.
pub fn text(text: &str) -> String {
    escape(text)
}

/// Writes a file aside and renames it into place, so that no reader meets half of it.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: PathBuf, bytes: &[u8]) -> Result<PathBuf> {
    super::write_whole(path, bytes)
}
