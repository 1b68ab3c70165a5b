//! One text through every byte-level BPE encoder at hand: ours must give the ids of the crates, whatever the text is.
//!
//! The body of the fuzz target `fuzz/fuzz_targets/encode.rs`, and of the tests in `adversarial.rs`.

use std::collections::HashSet;
use std::sync::LazyLock;
use taper::data::tokenizer::{Tokenizer, train_bpe};

/// One vocabulary in our encoder and in the `tokenizers` crate, which takes special tokens for text, or for what they spell.
struct Pair {
    ours: Tokenizer,
    plain: tokenizers::Tokenizer,
    special: tokenizers::Tokenizer,
}

impl Pair {
    fn new(ours: Tokenizer) -> Pair {
        let special = tokenizers::Tokenizer::from_bytes(ours.json()).unwrap();
        let mut plain = special.clone();
        plain.set_encode_special_tokens(true);
        Pair { ours, plain, special }
    }
}

static PAIRS: LazyLock<[Pair; 2]> = LazyLock::new(|| {
    // Few merges, whose words overlap themselves and each other: most words come to many ids.
    let corpus =
        "aaaa abab baba aa aab  \n\n    =====-=-= she sells sea shells é\u{301} мама 字字 1000 's 'll ".repeat(3);
    let small = train_bpe(&mut [Ok(corpus)].into_iter(), 320, &|_, _| ()).unwrap();
    [Pair::new(Tokenizer::gpt2().unwrap()), Pair::new(small)]
});
static TIKTOKEN: LazyLock<tiktoken_rs::CoreBPE> = LazyLock::new(|| tiktoken_rs::r50k_base().unwrap());

/// Panics if any encoder has other ids for `text` than the others, or if the ids do not spell it.
pub fn check(text: &str) {
    for Pair { ours, plain, special } in PAIRS.iter() {
        let ids = ours.encode(text, false).unwrap();
        same(&ids, plain.encode_fast(text, false).unwrap().get_ids(), "the crate", text);
        same(&ids, &ours.encode(text, false).unwrap(), "the cache", text);
        same(&ids, &ours.encode_parallel(text, false).unwrap(), "several threads", text);
        let cut: Vec<u32> = ours.pieces(text, 5, false).flat_map(|piece| ours.encode(piece, false).unwrap()).collect();
        same(&ids, &cut, "pieces", text);
        assert!(ours.decode_bytes(&ids).unwrap() == text.as_bytes(), "{ids:?}");
        let ids = ours.encode(text, true).unwrap();
        same(&ids, special.encode_fast(text, false).unwrap().get_ids(), "the crate, special", text);
    }
    // It is quadratic in the length of a word.
    if text.len() < 20_000 {
        let gpt2 = &PAIRS[0].ours;
        same(&gpt2.encode(text, false).unwrap(), &TIKTOKEN.encode_ordinary(text), "tiktoken", text);
        let allowed = HashSet::from(["<|endoftext|>"]);
        same(&gpt2.encode(text, true).unwrap(), &TIKTOKEN.encode(text, &allowed).unwrap().0, "tiktoken, special", text);
    }
}

/// Panics with the first difference, for whole lists are too long to look at.
fn same(ours: &[u32], theirs: &[u32], who: &str, text: &str) {
    if ours != theirs {
        let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
        let around = |ids: &[u32]| format!("{:?} of {}", &ids[at..ids.len().min(at + 8)], ids.len());
        let start: String = text.chars().take(300).collect();
        panic!("at {at}: we {}, {who} {} ({} bytes: {start:?})", around(ours), around(theirs), text.len());
    }
}
