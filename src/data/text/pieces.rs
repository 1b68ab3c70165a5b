//! Where a text may be cut so that its pieces encode to the tokens of the whole.
//!
//! Tokenizers of the GPT-2 family first split text with a regular expression, and no token ever crosses a split:
//!
//! ```text
//! 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```
//!
//! A cut at position `p` is invisible if (a) a match always ends at `p`, and (b) no match before `p` looks at what is
//! behind it. (The matches after `p` never look back: the pattern has no look-behind.)
//!
//! - *Before white space that follows something else.* No alternative matches a non-space followed by a space, so (a)
//!   holds; the only look-ahead, `\s+(?!\S)`, belongs to runs of white space, and the run at `p` has not begun: (b).
//! - *Between an ASCII letter or digit and an ASCII character of another class.* Letters, digits and the rest stand in
//!   different alternatives; the contractions begin with a quote and hold letters only, so none spans a change *after*
//!   a letter or digit.
//!
//! Later patterns (cl100k, Llama 3, Qwen) glue other things together, such as punctuation and a following newline. A blank
//! *between two ASCII letters* is a boundary in all of them, so it is taken first, and in ordinary prose always found.

/// The usual size of a piece: small enough to spread a batch over many cores, large enough that overheads vanish.
pub const PIECE_BYTES: usize = 256 << 10;

/// Where no invisible cut is found in this many bytes (no white space at all, no change of class), a piece is cut at a
/// character boundary anyway, to keep memory bounded; that may cost one token boundary every so many bytes.
pub const FORCED_BYTES: usize = 4 << 20;

/// The end of the first piece of `text`: about `piece_bytes` long, at most [`FORCED_BYTES`] if that is larger, or the
/// whole if it is short. `None` where `text` is not `complete` and more of it is needed to decide.
///
/// The answer depends on the text alone, never on how much of it beyond the decision was already there: a streamed file
/// and a string in memory are cut alike. With `special`, spelled-out special tokens such as `<|endoftext|>` stay whole
/// (they hold no blanks), so only cuts at white space are taken.
pub fn next_cut(text: &str, piece_bytes: usize, complete: bool, special: bool) -> Option<usize> {
    let mut limit = piece_bytes.max(4);
    loop {
        if text.len() <= limit {
            return complete.then_some(text.len());
        }
        if let Some(cut) = invisible_cut(text, limit, special) {
            return Some(cut);
        }
        if limit >= FORCED_BYTES {
            return Some((0..=limit).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0));
        }
        limit = limit.saturating_mul(2).min(FORCED_BYTES.max(piece_bytes));
    }
}

/// The last invisible cut in `1..limit`, by the best rule that finds one; looks at no byte beyond `limit`.
fn invisible_cut(text: &str, limit: usize, special: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let letter = |at: usize| bytes[at].is_ascii_alphabetic();
    let between_words = |at: &usize| bytes[*at] == b' ' && letter(at - 1) && letter(at + 1);
    let before_space = |at: &usize| is_ascii_space(bytes[*at]) && follows_non_space(text, *at);
    let class_change = |at: &usize| {
        bytes[at - 1].is_ascii_alphanumeric() && bytes[*at].is_ascii() && class(bytes[at - 1]) != class(bytes[*at])
    };
    let cuts = || (1..limit).rev();
    cuts()
        .find(between_words)
        .or_else(|| cuts().find(before_space))
        .or_else(|| if special { None } else { cuts().find(class_change) })
}

/// Tab to carriage return, and the blank: ASCII's share of the regular expression's `\s`.
fn is_ascii_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

fn follows_non_space(text: &str, at: usize) -> bool {
    text[..at].chars().next_back().is_some_and(|before| !before.is_whitespace())
}

/// 0 for letters, 1 for digits, 2 for white space, 3 for the rest of ASCII.
fn class(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' => 0,
        b'0'..=b'9' => 1,
        _ if is_ascii_space(byte) => 2,
        _ => 3,
    }
}
