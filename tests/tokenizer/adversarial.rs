//! Texts made to trip an encoder: every Unicode category, runs around every size that the code knows, contractions, blanks.

use proptest::prelude::*;
use regex_syntax::hir::{Class, HirKind};
use std::sync::LazyLock;

use super::differential::check;
use super::tricky_text;

const CATEGORIES: [&str; 29] = [
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm",
    "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn",
];

/// The first and the last character of the outermost and some inner ranges of each category (surrogates aside).
static SAMPLES: LazyLock<Vec<char>> = LazyLock::new(|| {
    let mut samples = Vec::new();
    for category in CATEGORIES {
        let parsed = regex_syntax::parse(&format!(r"\p{{{category}}}")).unwrap();
        match parsed.kind() {
            HirKind::Class(Class::Unicode(set)) => {
                let ranges = set.ranges();
                let some = [0, 1, ranges.len() / 3, ranges.len() / 2, ranges.len() - 1];
                let some = some.into_iter().filter_map(|at| ranges.get(at));
                samples.extend(some.flat_map(|range| [range.start(), range.end()]));
            }
            // A category of one character.
            HirKind::Literal(one) => samples.extend(std::str::from_utf8(&one.0).unwrap().chars()),
            other => panic!("{category} is {other:?}"),
        }
    }
    samples.sort_unstable();
    samples.dedup();
    samples
});

#[test]
fn characters_of_every_category() {
    assert!(SAMPLES.len() > 150, "{}", SAMPLES.len());
    for &c in SAMPLES.iter() {
        check(&format!("{c}"));
        check(&format!("{c}{c}{c} {c}a{c}a a{c} 1{c}1 '{c}'s{c}'s {c}  {c}\n{c}\u{a0}{c}={c}= <|endoftext|>{c}"));
    }
}

/// Around eight letters at a time, fifteen bytes of a short word, 34 of a remembered one, 48 on the stack, and far beyond.
#[test]
fn runs_of_one_character() {
    let lengths = [
        1, 2, 6, 7, 8, 9, 13, 14, 15, 16, 17, 23, 24, 25, 32, 33, 34, 35, 36, 46, 47, 48, 49, 50, 255, 256, 257, 1024,
        3000,
    ];
    for c in [
        'a', 'Z', 'é', 'ß', '字', '7', '½', '=', '.', '\'', '😀', ' ', '\t', '\n', '\r', '\u{85}', '\u{a0}', '\u{300}',
        '\0',
    ] {
        for length in lengths {
            let run = c.to_string().repeat(length);
            check(&run);
            check(&format!("x{run}y {run}\n{run} 's{run}"));
        }
    }
}

/// Truth for the whole length: the `tokenizers` crate. (Not a megabyte, which is in `gpt2.rs`: the crate's regex engine
/// gives up on a million blanks before a word, and the crate then does not split them at all.)
#[test]
fn long_runs_without_a_break() {
    for run in ["a", " ", "\n", "=-", "字"] {
        check(&run.repeat(200_000 / run.len()));
    }
    check(&(" ".repeat(200_000) + "a"));
}

/// What a fuzzer would send: bytes, of which the valid part is text.
fn valid_part(bytes: &[u8]) -> &str {
    bytes.utf8_chunks().map(|chunk| chunk.valid()).max_by_key(|valid| valid.len()).unwrap_or_default()
}

fn adversarial() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        2 => prop::sample::select(SAMPLES.clone()).prop_map(String::from),
        2 => (prop::sample::select(SAMPLES.clone()), 1usize..60).prop_map(|(c, n)| c.to_string().repeat(n)),
        2 => "[ \t\r\n\u{a0}\u{2003}]{1,20}",
        2 => "['’]?(s|t|re|ve|m|ll|d|S|T|RE|l|r|v)[a-zé']{0,3}",
        2 => "[a-zA-Z]{1,50}",
        1 => "[!-~]{1,40}",
        1 => prop::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| valid_part(&bytes).to_string()),
        1 => tricky_text(),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn any_text(text in adversarial()) {
        check(&text);
    }
}
