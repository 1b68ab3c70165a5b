//! A reader of Rust that knows comments, strings, character literals and braces, and no more.

/// The source with comments and literals blanked out, so that what is left is code.
pub fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    while i < bytes.len() {
        let rest = &source[i..];
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !follows_word(&out)) {
            length
        } else if rest.starts_with('"') {
            quoted(rest, b'"')
        } else if rest.starts_with('\'') {
            char_literal(rest)
        } else {
            0
        };
        if skip > 0 {
            // A blank in its place, so that words on both sides stay apart.
            out.push(' ');
            i += skip;
        } else {
            let letter = rest.chars().next().expect("inside the source");
            out.push(letter);
            i += letter.len_utf8();
        }
    }
    out
}

fn follows_word(out: &str) -> bool {
    out.ends_with(|letter: char| letter.is_alphanumeric() || letter == '_')
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        if rest.as_bytes()[i..].starts_with(b"/*") {
            (depth, i) = (depth + 1, i + 2);
        } else if rest.as_bytes()[i..].starts_with(b"*/") {
            (depth, i) = (depth - 1, i + 2);
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    rest.len()
}

/// The length of a raw string literal that starts here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(rest.len() - body.len() + length)
}

fn quoted(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut i = 1;
    while i < bytes.len() && bytes[i] != quote {
        i += if bytes[i] == b'\\' { 2 } else { 1 };
    }
    (i + 1).min(rest.len())
}

/// The length of a character literal; 0 for a lifetime.
fn char_literal(rest: &str) -> usize {
    let mut letters = rest[1..].chars();
    match (letters.next(), letters.next()) {
        (Some('\\'), _) => quoted(rest, b'\''),
        (Some(letter), Some('\'')) => 2 + letter.len_utf8(),
        _ => 0,
    }
}

/// The code without items under `#[cfg(test)]`: to the end of the braces that follow, or to the semicolon.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let Some(start) = code.find(MARK) else { return code.to_string() };
    let rest = &code[start + MARK.len()..];
    let mut depth = 0usize;
    let end = rest.char_indices().find_map(|(i, letter)| {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        ((letter == '}' || letter == ';') && depth == 0).then_some(i + 1)
    });
    format!("{}{}", &code[..start], without_tests(&rest[end.unwrap_or(rest.len())..]))
}
