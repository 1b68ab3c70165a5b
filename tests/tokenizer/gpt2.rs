//! The embedded GPT-2 tokenizer.

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::io::Read;
use std::sync::LazyLock;
use taper::data::tokenizer::Tokenizer;

use super::{fixture, ids, shared, tricky_text};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Truth: ids by Python's tiktoken from the published vocabulary.
#[test]
fn equals_the_ids_of_tiktoken() {
    let gpt2 = Tokenizer::gpt2().unwrap();
    for case in fixture("gpt2_ids.json")["cases"].as_array().unwrap() {
        let (text, special) = (case["text"].as_str().unwrap(), case["special"].as_bool().unwrap());
        assert_eq!(gpt2.encode(text, special).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(gpt2.decode(&ids(&case["ids"])).unwrap(), text);
    }
}

/// Truth: the SHA-256 of OpenAI's encoder.json and vocab.bpe, byte for byte.
#[test]
fn saves_the_published_vocab_and_merges() {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::gpt2().unwrap().save(folder.path(), 1024).unwrap();
    let sum = |name: &str| sha256(&std::fs::read(folder.path().join(name)).unwrap());
    assert_eq!(sum("vocab.json"), "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783");
    assert_eq!(sum("merges.txt"), "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5");
    let back = Tokenizer::from_file(folder.path()).unwrap();
    assert_eq!((back.kind(), back.vocab_size(), back.eot()), ("gpt2", 50257, Some(50256)));
    assert_eq!(back.hash(), sum("tokenizer.json"));
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(config["eos_token"], "<|endoftext|>");
    assert_eq!(config["model_max_length"], 1024);
}

/// The older pair of files, without tokenizer.json, is the same tokenizer.
#[test]
fn vocab_json_with_merges_txt_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let gpt2 = Tokenizer::gpt2().unwrap();
    gpt2.save(folder.path(), 1024).unwrap();
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let back = Tokenizer::from_file(folder.path()).unwrap();
    assert_eq!((back.kind(), back.hash(), back.eot()), ("gpt2", gpt2.hash(), Some(50256)));
}

static TIKTOKEN: LazyLock<tiktoken_rs::CoreBPE> = LazyLock::new(|| tiktoken_rs::r50k_base().unwrap());

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    /// Truth: the tiktoken-rs crate.
    #[test]
    fn equals_tiktoken_on_any_text(text in tricky_text()) {
        let gpt2 = Tokenizer::gpt2().unwrap();
        let plain = gpt2.encode(&text, false).unwrap();
        prop_assert_eq!(&plain, &TIKTOKEN.encode_ordinary(&text));
        let special = gpt2.encode(&text, true).unwrap();
        let allowed = HashSet::from(["<|endoftext|>"]);
        prop_assert_eq!(&special, &TIKTOKEN.encode(&text, &allowed).unwrap().0);
        prop_assert_eq!(gpt2.decode(&plain).unwrap(), text.as_str());
        prop_assert_eq!(gpt2.decode_bytes(&special).unwrap(), text.as_bytes());
    }
}

/// A long "word" goes through the heap. Truth: tiktoken-rs. (A quadratic encoder would not finish.)
#[test]
fn a_word_of_a_megabyte_is_no_trap() {
    let gpt2 = Tokenizer::gpt2().unwrap();
    let mut state = 1u32;
    let letters: String = (0..1 << 20)
        .map(|_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            char::from(b'a' + (state >> 24) as u8 % 26)
        })
        .collect();
    let blanks_and_a_word = " ".repeat(1 << 20) + "a";
    let (same, blanks, lines) = ("a".repeat(1 << 20), " ".repeat(1 << 20), "\n".repeat(1 << 20));
    for text in [&letters, &same, &blanks, &blanks_and_a_word, &lines, &"=-".repeat(1 << 19)] {
        let encoded = gpt2.encode(text, false).unwrap();
        assert_eq!(gpt2.decode(&encoded).unwrap(), *text);
        let short = &text[..20_000];
        assert_eq!(gpt2.encode(short, false).unwrap(), TIKTOKEN.encode_ordinary(short));
    }
}

/// Truth: the published vocab.json, token for token; and the file as another project wrote it is the same tokenizer.
#[test]
fn equals_the_published_files_token_for_token() {
    let (Some(vocab), Some(file)) = (shared("gpt2/vocab.json"), shared("gpt2/tokenizer.json")) else { return };
    let vocab: serde_json::Value = serde_json::from_slice(&std::fs::read(vocab).unwrap()).unwrap();
    let gpt2 = Tokenizer::gpt2().unwrap();
    let folder = tempfile::tempdir().unwrap();
    gpt2.save(folder.path(), 1024).unwrap();
    let ours: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("tokenizer.json")).unwrap()).unwrap();
    assert_eq!(vocab.as_object().unwrap().len(), 50257);
    assert_eq!(ours["model"]["vocab"], vocab);
    let theirs = Tokenizer::from_file(&file).unwrap();
    assert_eq!((theirs.kind(), theirs.hash(), theirs.eot()), ("gpt2", gpt2.hash(), Some(50256)));
}

/// Truth: ids of whole files by tiktoken (SHA-256 of the ids as little-endian u16).
#[test]
fn equals_the_shared_ids_of_whole_files() {
    let Some(path) = shared("gpt2/sample_ids.json") else { return };
    let samples: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let gpt2 = Tokenizer::gpt2().unwrap();
    for case in samples["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(gpt2.encode(text, case["special"].as_bool().unwrap()).unwrap(), ids(&case["ids"]), "{text:?}");
    }
    for (name, truth) in samples["files"].as_object().unwrap() {
        let Some(path) = shared(name) else { continue };
        let bytes = std::fs::read(path).unwrap();
        let mut text = String::new();
        match name.ends_with(".gz") {
            true => flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap(),
            false => (&bytes[..]).read_to_string(&mut text).unwrap(),
        };
        let encoded = gpt2.encode_parallel(&text, truth["special"].as_bool().unwrap()).unwrap();
        assert_eq!(encoded.len() as u64, truth["n_tokens"].as_u64().unwrap(), "{name}");
        let words: Vec<u8> = encoded.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect();
        assert_eq!(sha256(&words), truth["sha256_u16le"].as_str().unwrap(), "{name}");
    }
}
