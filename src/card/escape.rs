//! Text of unknown origin into YAML, Markdown and Python, unchanged in meaning.

/// A double-quoted YAML scalar. Always quoted: plain `no`, `1.0`, `null` and `2024-01-01` are not strings in YAML.
pub(super) fn yaml_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // YAML 1.1 counts the first two as line breaks, and takes neither controls nor the byte order mark raw.
            '\u{2028}' | '\u{2029}' | '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}' => push_escape(&mut quoted, c),
            c if c.is_control() => push_escape(&mut quoted, c),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A double-quoted Python string literal.
pub(super) fn python_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => push_escape(&mut quoted, c),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `\u2028`, as YAML and Python both spell it. Controls and the marks above all have four digits.
fn push_escape(text: &mut String, c: char) {
    text.push_str(&format!("\\u{:04x}", u32::from(c)));
}

/// Plain text on one line of Markdown: no character of it is markup, HTML or a link.
pub(super) fn inline(text: &str) -> String {
    let mut escaped = String::new();
    for (i, c) in text.chars().enumerate() {
        match c {
            // At the beginning these make a list or a heading.
            '-' | '+' | '=' if i == 0 => {
                escaped.push('\\');
                escaped.push(c);
            }
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '~' | '$' | '&' | '#' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Code within a line. Spaces stand between the backticks and the text, which Markdown takes away again.
pub(super) fn code_span(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let ticks = "`".repeat(longest_run(&text) + 1);
    if text.starts_with('`') || text.ends_with('`') || (text.starts_with(' ') && text.ends_with(' ')) {
        format!("{ticks} {text} {ticks}")
    } else {
        format!("{ticks}{text}{ticks}")
    }
}

/// A fenced block whose fence is longer than any run of backticks in the text, so that nothing in it can end it.
pub(super) fn fence(card: &mut String, language: &str, text: &str) {
    let ticks = "`".repeat((longest_run(text) + 1).max(3));
    // NUL is the one character that Markdown replaces; carriage returns would become line ends.
    let text = text.replace('\0', "\u{FFFD}").replace("\r\n", "\n").replace('\r', "\n");
    let newline = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    card.push_str(&format!("{ticks}{language}\n{text}{newline}{ticks}\n\n"));
}

/// The length of the longest run of backticks.
fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}
