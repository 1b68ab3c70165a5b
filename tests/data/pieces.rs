//! Pieces encode to the tokens of the whole.

use std::sync::LazyLock;

use super::{Gpt2, prose, write};
use fancy_regex::Regex;
use proptest::prelude::*;
use taper::data::text::pieces::{FORCED_BYTES, next_cut};
use taper::data::{Documents, Encode, TextOptions};

/// The pattern as OpenAI published it with GPT-2 (encoder.py).
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The pattern of cl100k_base as published in tiktoken, for which cuts between words are invisible too.
const CL100K: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

fn split<'a>(pattern: &Regex, text: &'a str) -> Vec<&'a str> {
    pattern.find_iter(text).map(|found| found.unwrap().as_str()).collect()
}

fn pieces(text: &str, size: usize) -> Vec<&str> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let cut = next_cut(rest, size, true, false).unwrap();
        pieces.push(&rest[..cut]);
        rest = &rest[cut..];
    }
    pieces
}

fn check(text: &str, size: usize) {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(GPT2).unwrap());
    let pattern = &*PATTERN;
    let pieces = pieces(text, size);
    let apart: Vec<&str> = pieces.iter().flat_map(|piece| split(pattern, piece)).collect();
    assert_eq!(apart, split(pattern, text), "pieces {pieces:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_are_invisible_to_gpt2(text in "[ab1２ \n\r\t'sre.<|>é鯨\u{a0}\u{3000}\u{301}\u{85}]{0,60}", size in 4usize..20) {
        check(&text, size);
    }

    #[test]
    fn cuts_do_not_depend_on_what_is_read_ahead(text in "[a1 \n.鯨]{0,60}", size in 4usize..20, seen in 0usize..200) {
        let end = (0..=seen.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap();
        if let Some(cut) = next_cut(&text[..end], size, false, false) {
            prop_assert_eq!(Some(cut), next_cut(&text, size, true, false));
        }
    }
}

#[test]
fn cuts_between_words_are_invisible_to_later_patterns() {
    let text = "It was.\nThe best of\n\n times,  it's 1859 (see) what we've   had.\r\n".repeat(50);
    for pattern in [GPT2, CL100K] {
        let pattern = Regex::new(pattern).unwrap();
        for size in [40, 41, 50, 77, 200] {
            let apart: Vec<&str> = pieces(&text, size).iter().flat_map(|piece| split(&pattern, piece)).collect();
            assert_eq!(apart, split(&pattern, &text));
        }
    }
}

#[test]
fn a_text_without_any_invisible_cut_is_cut_at_a_character() {
    let text = "鯨".repeat(FORCED_BYTES / 2);
    let parts = pieces(&text, 1000);
    assert_eq!(parts.concat(), text);
    assert!(parts.iter().all(|part| part.len() <= FORCED_BYTES) && parts.len() == 2, "{} parts", parts.len());
    // Spelled-out special tokens stay whole: with blanks left as the only cuts, there is none here.
    assert_eq!(next_cut("aaa<|endoftext|>aaa<|endoftext|>", 20, true, true), Some(32));
}

#[test]
fn a_streamed_file_encodes_to_the_tokens_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let text = prose(3, 900_000);
    let path = write(folder.path().join("book.txt"), &text);
    for piece_bytes in [100, 5_000, 256 << 10] {
        let options = TextOptions { piece_bytes, ..TextOptions::default() };
        let mut ids = Vec::new();
        let mut joined = String::new();
        for (number, piece) in Documents::open(std::slice::from_ref(&path), &options).unwrap().enumerate() {
            let piece = piece.unwrap();
            assert_eq!((piece.starts_document, piece.place), (number == 0, joined.len() as u64));
            Gpt2.encode_into(&piece.text, false, &mut ids).unwrap();
            joined.push_str(&piece.text);
        }
        assert_eq!(joined, text);
        assert_eq!(ids, tiktoken_rs::r50k_base_singleton().encode_ordinary(&text), "pieces of {piece_bytes} bytes");
    }
}

#[test]
fn real_text_encodes_to_the_tokens_of_the_whole() {
    let shared = std::env::var_os("TAPER_SHARED").map(std::path::PathBuf::from);
    let shared = shared.unwrap_or(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let path = shared.join("data/wikitext2/valid.txt");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is not here", path.display());
        return;
    };
    let mut ids = Vec::new();
    for piece in pieces(&text, 3000) {
        Gpt2.encode_into(piece, false, &mut ids).unwrap();
    }
    // The count is the one that the folder's README gives.
    assert_eq!(ids.len(), 258_659);
    assert_eq!(ids, tiktoken_rs::r50k_base_singleton().encode_ordinary(&text));
}
