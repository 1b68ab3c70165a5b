//! GPT-2's split pattern as a hand-written scanner.
//!
//! BPE never merges across "words", and GPT-2 (Radford et al., 2019, `encoder.py`) cuts words with
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`. A regex engine with look-ahead spends most
//! of a tokenizer's time on it; but every character is one of four classes (letter, number, white space, other), each
//! alternative is a run of one class, and the look-ahead only decides whether a run of blanks gives its last one away.
//! So one table look-up a character does it, and runs of ASCII letters, most of most texts, go eight bytes at a time.
//!
//! The classes come from the Unicode tables of `regex-syntax`, which the regex engines of the `tokenizers` and
//! `tiktoken-rs` crates use too: std's `is_alphabetic` and `is_numeric` are *not* `\p{L}` and `\p{N}`.

use std::ops::Range;
use std::sync::LazyLock;

/// What a character is to the split pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Class {
    Other,
    Letter,
    Number,
    Space,
}

/// Classes of the ASCII characters; `\s` has U+0009 to U+000D and the blank there.
const ASCII: [Class; 128] = {
    let mut table = [Class::Other; 128];
    let mut b = 0u8;
    while b < 128 {
        table[b as usize] = match b {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            9..=13 | b' ' => Class::Space,
            _ => Class::Other,
        };
        b += 1;
    }
    table
};

/// A two-level table over all code points: most blocks of 256 are alike and share their storage.
struct Classes {
    index: Vec<u16>,
    blocks: Vec<[Class; 256]>,
}

impl Classes {
    fn of(&self, c: char) -> Class {
        self.blocks[self.index[c as usize >> 8] as usize][c as usize & 255]
    }
}

static CLASSES: LazyLock<Classes> = LazyLock::new(|| {
    let mut flat = vec![Class::Other; 0x110000];
    for (pattern, class) in [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Space)] {
        let parsed = regex_syntax::parse(pattern).expect("a constant pattern");
        let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(set)) = parsed.kind() else {
            unreachable!("{pattern} is a class")
        };
        for range in set.ranges() {
            flat[range.start() as usize..=range.end() as usize].fill(class);
        }
    }
    let mut classes = Classes { index: Vec::new(), blocks: Vec::new() };
    for block in flat.chunks_exact(256) {
        let known = classes.blocks.iter().position(|b| b[..] == *block);
        classes.index.push(known.unwrap_or_else(|| {
            classes.blocks.push(std::array::from_fn(|i| block[i]));
            classes.blocks.len() - 1
        }) as u16);
    }
    classes
});

/// The words of a text, in order and without gaps: their concatenation is the text.
pub(super) fn words(text: &str) -> Words<'_> {
    Words { text, at: 0, classes: &CLASSES }
}

/// See [`words`].
pub(super) struct Words<'a> {
    text: &'a str,
    at: usize,
    classes: &'static Classes,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.next_range().map(|range| &self.text.as_bytes()[range])
    }
}

impl Words<'_> {
    /// Where the next word stands, in bytes of the text.
    #[inline(always)]
    pub fn next_range(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        if start == self.text.len() {
            return None;
        }
        self.at = self.word_end(start);
        Some(start..self.at)
    }

    /// The class of the character at byte `at` (a boundary before the end) and its length in bytes.
    #[inline(always)]
    fn class(&self, at: usize) -> (Class, usize) {
        let byte = self.text.as_bytes()[at];
        if byte < 128 { (ASCII[byte as usize], 1) } else { self.wide_class(at) }
    }

    fn wide_class(&self, at: usize) -> (Class, usize) {
        let c = self.text[at..].chars().next().unwrap_or('\0');
        (self.classes.of(c), c.len_utf8())
    }

    /// The end of the run of `class` that continues at `at`.
    #[inline(always)]
    fn run_end(&self, class: Class, mut at: usize) -> usize {
        while at < self.text.len() {
            let (next, length) = self.class(at);
            if next != class {
                break;
            }
            at += length;
        }
        at
    }

    #[inline(always)]
    fn word_end(&self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        let first = start + usize::from(bytes[start] == b' ');
        if bytes.get(first).is_some_and(u8::is_ascii_alphabetic) {
            let end = letters_end(bytes, first + 1);
            let resuming = bytes.get(end).is_some_and(|byte| !byte.is_ascii());
            return if resuming { self.run_end(Class::Letter, end) } else { end };
        }
        self.other_end(start)
    }

    /// The end of a word that does not begin with an ASCII letter, nor with a blank and one.
    fn other_end(&self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        if bytes[start] == b'\'' {
            match bytes.get(start + 1).copied() {
                Some(b's' | b't' | b'm' | b'd') => return start + 2,
                Some(b'r' | b'v') if bytes.get(start + 2) == Some(&b'e') => return start + 3,
                Some(b'l') if bytes.get(start + 2) == Some(&b'l') => return start + 3,
                _ => {}
            }
        }
        let (class, length) = self.class(start);
        if class != Class::Space {
            return self.run_end(class, start + length);
        }
        if bytes[start] == b' ' && start + 1 < bytes.len() {
            let (next, length) = self.class(start + 1);
            if next != Class::Space {
                return self.run_end(next, start + 1 + length);
            }
        }
        self.blank_end(start, start + length)
    }

    /// `\s+(?!\S)|\s+`: a run of white space keeps all but its last character when a word follows and more than one is
    /// there.
    fn blank_end(&self, start: usize, first_end: usize) -> usize {
        let (mut end, mut last) = (first_end, start);
        while end < self.text.len() {
            let (class, length) = self.class(end);
            if class != Class::Space {
                return if last > start { last } else { end };
            }
            last = end;
            end += length;
        }
        end
    }
}

/// The end of the ASCII letters that continue at `at`.
#[inline(always)]
fn letters_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let others = not_letters(u64::from_le_bytes(*chunk));
        if others != 0 {
            return at + others.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(u8::is_ascii_alphabetic) {
        at += 1;
    }
    at
}

/// The highest bit of each of eight bytes that is no ASCII letter; no byte's sum carries into the next.
#[inline(always)]
fn not_letters(bytes: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // Bit 0x20 makes a capital small, and no other character a letter.
    let small = (bytes | (0x20 * ONES)) & !HIGH;
    let from_a = small + ONES * (0x80 - b'a' as u64);
    let beyond_z = small + ONES * (0x7f - b'z' as u64);
    (!from_a | beyond_z | bytes) & HIGH
}

/// Cuts a text into pieces of at least `size` bytes (the last may be shorter) at places where the words of the pieces are
/// the words of the text: between a character that is not white space and an ASCII one that is. No word spans such a
/// place (white space stands only first in a word, or alone), and nothing left of it depends on what follows.
/// A text without such a place stays whole.
pub(super) fn pieces(text: &str, size: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(cut_after(rest, size.max(1)));
        rest = after;
        Some(piece)
    })
}

/// The first place for a cut at or after byte `from`, or the end of the text.
fn cut_after(text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    (from..bytes.len())
        .find(|&at| {
            let blank = bytes[at] < 128 && ASCII[bytes[at] as usize] == Class::Space;
            blank && text[..at].chars().next_back().is_some_and(|before| CLASSES.of(before) != Class::Space)
        })
        .unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    /// The truth: the published pattern in the fancy-regex engine.
    fn by_regex(text: &str) -> Vec<&str> {
        static REGEX: LazyLock<fancy_regex::Regex> = LazyLock::new(|| fancy_regex::Regex::new(PATTERN).unwrap());
        REGEX.find_iter(text).map(|m| m.unwrap().as_str()).collect()
    }

    fn by_scanner(text: &str) -> Vec<&str> {
        words(text).map(|w| std::str::from_utf8(w).unwrap()).collect()
    }

    /// Text of what the pattern looks at: blanks of all kinds, quotes, contractions, and characters where std's classes
    /// differ from Unicode's (combining marks, circled letters, ideographic numbers).
    fn tricky() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            " ",
            "  ",
            "\n",
            "\t",
            "\r\n",
            "\u{85}",
            "\u{a0}",
            "\u{2003}",
            "\u{3000}",
            "\u{200b}",
            "\u{1c}",
            "'",
            "'s",
            "'ll",
            "'re",
            "'ve",
            "'l",
            "'r",
            "’s",
            "S",
            "s",
            "t",
            "re",
            "l",
            "é",
            "e\u{301}",
            "ß",
            "Ω",
            "字",
            "〇",
            "一",
            "Ⅷ",
            "ⓐ",
            "½",
            "²",
            "٣",
            "7",
            "42",
            "_",
            "-",
            "!",
            "…",
            "😀",
            "👩\u{200d}🚀",
            "\u{1f1e6}",
            "\0",
            "\u{10ffff}",
        ]);
        prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn equals_the_regex_on_tricky_text(text in tricky()) {
            prop_assert_eq!(by_scanner(&text), by_regex(&text));
        }

        #[test]
        fn equals_the_regex_on_any_text(text in any::<String>()) {
            prop_assert_eq!(by_scanner(&text), by_regex(&text));
        }

        #[test]
        fn pieces_have_the_words_of_the_whole(text in tricky(), size in 1usize..12) {
            let cut: Vec<&str> = pieces(&text, size).flat_map(by_scanner).collect();
            prop_assert_eq!(cut, by_scanner(&text));
        }
    }

    /// Every byte at every place of the eight, next to letters and next to others.
    #[test]
    fn letters_end_where_the_bytes_say() {
        for (place, byte, filler) in (0..8).flat_map(|p| (0..=255u8).flat_map(move |b| [(p, b, b'q'), (p, b, b'[')])) {
            let mut bytes = [filler; 8];
            bytes[place] = byte;
            let expected = bytes.iter().position(|b| !b.is_ascii_alphabetic());
            let found = not_letters(u64::from_le_bytes(bytes));
            assert_eq!((found != 0).then(|| found.trailing_zeros() as usize / 8), expected, "{bytes:?}");
        }
    }

    /// Every code point, against the classes by the regex engine itself.
    #[test]
    fn every_character_has_its_class() {
        let classes = [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Space)];
        let all: String = ('\0'..=char::MAX).collect();
        let mut truth = vec![Class::Other; 0x110000];
        for (pattern, class) in classes {
            for found in fancy_regex::Regex::new(pattern).unwrap().find_iter(&all) {
                truth[found.unwrap().as_str().chars().next().unwrap() as usize] = class;
            }
        }
        for c in all.chars() {
            assert_eq!(CLASSES.of(c), truth[c as usize], "{c:?}");
            if c.is_ascii() {
                assert_eq!(ASCII[c as usize], truth[c as usize], "{c:?}");
            }
        }
    }
}
