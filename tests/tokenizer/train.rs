//! Training BPE, against trainers that recount everything for every merge.

use proptest::prelude::*;
use std::collections::BTreeMap;
use taper::data::tokenizer::{Ties, Tokenizer, train_bpe, train_bpe_with};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer};

use super::{fixture, ids, tricky_text};

fn trained(texts: &[&str], vocab_size: usize) -> Tokenizer {
    let mut texts = texts.iter().map(|t| Ok(t.to_string()));
    train_bpe(&mut texts, vocab_size, &|_, _| ()).unwrap()
}

fn merged(parts: &[Vec<u8>], left: &[u8], right: &[u8]) -> Vec<Vec<u8>> {
    let (mut out, mut i) = (Vec::new(), 0);
    while i < parts.len() {
        let pair = i + 1 < parts.len() && parts[i] == left && parts[i + 1] == right;
        out.push(if pair { [left, right].concat() } else { parts[i].clone() });
        i += if pair { 2 } else { 1 };
    }
    out
}

/// The truth for counts and ties: every pair is counted anew for every merge, over every occurrence of every word.
fn naive(texts: &[&str], vocab_size: usize) -> Vec<Vec<u8>> {
    let pattern =
        fancy_regex::Regex::new(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+").unwrap();
    let words = texts.iter().flat_map(|text| pattern.find_iter(text).map(|m| m.unwrap().as_str()));
    let mut words: Vec<Vec<Vec<u8>>> = words.map(|w| w.bytes().map(|b| vec![b]).collect()).collect();
    let mut tokens = Vec::new();
    while tokens.len() + 257 < vocab_size {
        let mut counts: BTreeMap<(Vec<u8>, Vec<u8>), usize> = BTreeMap::new();
        for pair in words.iter().flat_map(|w| w.windows(2)) {
            *counts.entry((pair[0].clone(), pair[1].clone())).or_default() += 1;
        }
        // The last of the greatest, in the map's order: the greater (left, right).
        let best = counts.into_iter().max_by_key(|(_, n)| *n);
        let Some(((left, right), 2..)) = best else { break };
        words = words.iter().map(|w| merged(w, &left, &right)).collect();
        tokens.push([left, right].concat());
    }
    tokens
}

fn merged_tokens(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    (256..tokenizer.eot().unwrap()).map(|id| tokenizer.token_bytes(id).unwrap()).collect()
}

/// The vocabulary that the `tokenizers` crate's trainer makes, by id.
fn by_the_crate(texts: &[&str], vocab_size: usize) -> Vec<String> {
    let level = ByteLevel::new(false, true, true);
    let split = |text: &str| {
        let mut pieces = PreTokenizedString::from(text);
        level.pre_tokenize(&mut pieces)?;
        let words = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(words.into_iter().map(|(word, ..)| word.to_string()).collect())
    };
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size - 1) // It has no end of text here.
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    trainer.feed(texts.iter(), split).unwrap();
    let mut model = BPE::default();
    trainer.train(&mut model).unwrap();
    (0..model.get_vocab_size() as u32).map(|id| model.id_to_token(id).unwrap()).collect()
}

/// Our vocabulary with the crate's rule for ties, by id, as vocab.json spells it.
fn by_us(texts: &[&str], vocab_size: usize) -> Vec<String> {
    let mut texts = texts.iter().map(|t| Ok(t.to_string()));
    let tokenizer = train_bpe_with(&mut texts, vocab_size, Ties::SmallerIds, &|_, _| ()).unwrap();
    let json: serde_json::Value = serde_json::from_str(tokenizer.json()).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens: Vec<(u64, String)> =
        vocab.iter().map(|(token, id)| (id.as_u64().unwrap(), token.clone())).collect();
    tokens.sort_unstable();
    tokens.pop_if(|(_, token)| token == "<|endoftext|>");
    tokens.into_iter().map(|(_, token)| token).collect()
}

/// Thousands of merges of real text, where ties are many. Truth: the crate's own trainer.
#[test]
fn equals_the_crates_trainer_on_our_own_sources() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = walkdir::WalkDir::new(root.join("src/data")).into_iter().filter_map(Result::ok).collect();
    files.sort_by(|a, b| a.path().cmp(b.path()));
    let texts: Vec<String> = files.iter().filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let truth = by_the_crate(&texts, 6000);
    assert!(truth.len() > 3000, "{}", truth.len());
    assert_eq!(by_us(&texts, 6000), truth);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn equals_the_crates_trainer(a in "[ab ]{0,60}", b in "[abc]{0,60}", c in tricky_text(), size in 258usize..400) {
        prop_assume!(!(a.is_empty() && b.is_empty() && c.is_empty()));
        let texts = [a.as_str(), &b, &c];
        prop_assert_eq!(by_us(&texts, size), by_the_crate(&texts, size));
    }

    #[test]
    fn equals_the_naive_trainer(a in "[ab ]{0,60}", b in "[abc]{0,60}", c in tricky_text(), size in 257usize..330) {
        prop_assume!(!(a.is_empty() && b.is_empty() && c.is_empty()));
        let texts = [a.as_str(), &b, &c];
        let tokenizer = trained(&texts, size);
        prop_assert_eq!(merged_tokens(&tokenizer), naive(&texts, size));
        for text in texts {
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap()).unwrap(), text);
        }
    }

    /// Truth for encoding with trained merges: the `tokenizers` crate reading the saved file.
    #[test]
    fn encodes_as_the_tokenizers_crate(text in tricky_text(), corpus in tricky_text()) {
        prop_assume!(!corpus.is_empty());
        let tokenizer = trained(&[&corpus, &corpus, "the shells the lowest aaaa abab"], 400);
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path(), 64).unwrap();
        let mut reference = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
        let special = reference.encode_fast(text.as_str(), true).unwrap();
        prop_assert_eq!(tokenizer.encode(&text, true).unwrap(), special.get_ids());
        reference.set_encode_special_tokens(true);
        let plain = reference.encode_fast(text.as_str(), true).unwrap();
        prop_assert_eq!(tokenizer.encode(&text, false).unwrap(), plain.get_ids());
        prop_assert_eq!(tokenizer.decode(plain.get_ids()).unwrap(), reference.decode(plain.get_ids(), false).unwrap());
    }
}

/// Truth: the plain trainer in Python, its merges and its ids.
#[test]
fn equals_the_plain_python_trainer() {
    let truth = fixture("trained_bpe.json");
    let corpus = truth["corpus"].as_str().unwrap();
    let merges = truth["merges"].as_array().unwrap();
    let tokenizer = trained(&[corpus], 5000);
    assert_eq!(tokenizer.vocab_size(), 257 + merges.len(), "it stops when no pair occurs twice");
    for (merge, bytes) in merges.iter().zip(merged_tokens(&tokenizer)) {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(format!("{}{}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()), hex);
    }
    for case in truth["cases"].as_array().unwrap() {
        assert_eq!(tokenizer.encode(case["text"].as_str().unwrap(), false).unwrap(), ids(&case["ids"]));
    }
    let smaller = trained(&[corpus], 280);
    assert_eq!(merged_tokens(&smaller), merged_tokens(&tokenizer)[..280 - 257]);
    assert_eq!(smaller.eot(), Some(279));
}

/// Ties by hand: all pairs of "bc", "ab", "ac" occur twice; the greater left goes first, then the greater right.
#[test]
fn ties_go_to_the_greater_pair() {
    let tokenizer = trained(&["ab\nac\nbc\nab\nac\nbc"], 260);
    assert_eq!(merged_tokens(&tokenizer), [b"bc".to_vec(), b"ac".to_vec(), b"ab".to_vec()]);
    // Bytes are compared raw: in GPT-2's alphabet the blank is U+0120 and would win over letters.
    let tokenizer = trained(&["xa\nxa", " q\n q"], 258);
    assert_eq!(merged_tokens(&tokenizer), [b"xa".to_vec()]);
}

#[test]
fn threads_and_document_order_do_not_matter() {
    let corpus = fixture("trained_bpe.json")["corpus"].as_str().unwrap().to_string();
    // Several counting pieces of a megabyte.
    let long: String =
        (0..8000).map(|i| format!("{} {}\n", &corpus[..40], i * 7919 % 1013)).collect::<String>() + &corpus;
    let hash = |threads: usize, texts: &[&str]| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| trained(texts, 600).hash().to_string())
    };
    let one = hash(1, &[&long, &corpus, &long]);
    assert_eq!(one, hash(3, &[&long, &corpus, &long]));
    assert_eq!(one, hash(2, &[&corpus, &long, &long]));
}

#[test]
fn progress_ends_at_the_total_and_failures_pass_through() {
    let seen = std::cell::RefCell::new(Vec::new());
    let mut texts = [Ok("aaaa aaaa".to_string())].into_iter();
    train_bpe(&mut texts, 259, &|done, total| seen.borrow_mut().push((done, total))).unwrap();
    assert_eq!(*seen.borrow(), [(1, 2), (2, 2)]);

    let train = |texts: Vec<taper::Result<String>>, size| train_bpe(&mut texts.into_iter(), size, &|_, _| ());
    let error = train(vec![Ok("a".into()), Err(taper::Error::data("x.txt", "is torn"))], 300).unwrap_err();
    assert_eq!(error.to_string(), "x.txt: is torn");
    assert!(train(vec![Ok(String::new())], 300).unwrap_err().to_string().contains("empty"));
    assert_eq!(train(vec![Ok("a".into())], 256).unwrap_err().exit_code(), 2);
    assert_eq!(train(vec![Ok("a".into())], 300).unwrap().vocab_size(), 257);
}
