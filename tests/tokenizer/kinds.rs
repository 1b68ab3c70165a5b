//! Bytes, characters, decoding, streaming, and cutting a text into pieces.

use proptest::prelude::*;
use std::path::Path;
use taper::data::tokenizer::{StreamDecoder, Tokenizer, train_bpe};

use super::tricky_text;

/// A BPE tokenizer as Llama's: merges over characters, bytes as a fall-back, `▁` for a blank. It runs on the crate.
pub fn sentencepiece_like() -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
    let letters = ["▁", "a", "b", "t", "h", "e", "th", "the", "▁the", "ab"].map(String::from);
    for (id, token) in ["<unk>", "</s>"].map(String::from).into_iter().chain(bytes).chain(letters).enumerate() {
        vocab.insert(token, id.into());
    }
    let json = serde_json::json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [{"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                  "vocab": vocab, "merges": [["t", "h"], ["th", "e"], ["▁", "the"], ["a", "b"]]},
    });
    Tokenizer::from_json(&json.to_string(), Path::new("llama.json")).unwrap()
}

#[test]
fn bytes_are_their_own_ids() {
    let bytes = Tokenizer::bytes();
    assert_eq!((bytes.kind(), bytes.vocab_size(), bytes.eot()), ("bytes", 257, Some(256)));
    assert_eq!(bytes.encode("aé\n", false).unwrap(), [97, 0xc3, 0xa9, 10]);
    assert_eq!(bytes.encode("a<|endoftext|>b", true).unwrap(), [97, 256, 98]);
    assert_eq!(
        bytes.encode("<|endoftext|>", false).unwrap(),
        "<|endoftext|>".bytes().map(u32::from).collect::<Vec<_>>()
    );
    assert_eq!(bytes.encode("", true).unwrap(), [0u32; 0]);
    assert_eq!(bytes.decode_bytes(&[0xff, 0xc3]).unwrap(), [0xff, 0xc3]);
    assert_eq!(bytes.decode(&[97, 0xff, 98]).unwrap(), "a\u{fffd}b");
}

/// Truth: nanoGPT's published encoding of "hii there" with the 65 characters of tiny Shakespeare.
#[test]
fn characters_are_numbered_as_in_nanogpt() {
    let text = "zyxwvutsrqponmlkjihgfedcba ZYXWVUTSRQPONMLKJIHGFEDCBA\n!$&',-.3:;?";
    let chars = Tokenizer::chars([text, text].into_iter(), false).unwrap();
    assert_eq!((chars.kind(), chars.vocab_size(), chars.eot()), ("chars", 65, None));
    assert_eq!(chars.encode("hii there", false).unwrap(), [46, 47, 47, 1, 58, 46, 43, 56, 43]);
    assert_eq!(chars.decode(&[46, 47, 47, 1, 58, 46, 43, 56, 43]).unwrap(), "hii there");
    let mut out = vec![7];
    let error = chars.encode_into("hi é", false, &mut out).unwrap_err().to_string();
    assert!(error.contains("'é' (U+00E9) at byte 3"), "{error}");
    assert_eq!(out, [7], "a failed encoding leaves nothing behind");
}

#[test]
fn characters_with_an_end_of_text() {
    let chars = Tokenizer::chars(["ba<|endoftx>", "é"].into_iter(), true).unwrap();
    let eot = chars.eot().unwrap();
    assert_eq!((eot as usize, chars.vocab_size()), (13, 14));
    assert_eq!(chars.encode("a<|endoftext|>é", true).unwrap(), [2, eot, 12]);
    assert_eq!(chars.encode("<|endoftext|>", false).unwrap().len(), 13);
    assert_eq!(chars.decode(&[2, eot]).unwrap(), "a<|endoftext|>");
    assert!(Tokenizer::chars([""].into_iter(), true).is_err());
}

fn all_kinds() -> Vec<Tokenizer> {
    let corpus = "the shells, the shells größer 日本語 aaaa abab 1000 1000";
    vec![
        Tokenizer::gpt2().unwrap(),
        Tokenizer::bytes(),
        train_bpe(&mut [Ok(corpus.to_string())].into_iter(), 300, &|_, _| ()).unwrap(),
        Tokenizer::chars([corpus].into_iter(), true).unwrap(),
        sentencepiece_like(),
    ]
}

#[test]
fn an_unknown_id_is_named_with_its_position() {
    for tokenizer in all_kinds() {
        let size = tokenizer.vocab_size() as u32;
        let error = tokenizer.decode(&[1, 2, size]).unwrap_err().to_string();
        assert!(error.contains(&format!("id {size} at position 2")), "{error}");
        assert!(tokenizer.decode_bytes(&[u32::MAX]).is_err());
        assert_eq!(tokenizer.token_bytes(size), None);
        assert_eq!(tokenizer.decode(&[]).unwrap(), "");
        assert_eq!(tokenizer.encode("", true).unwrap(), [0u32; 0]);
    }
}

#[test]
fn a_crate_tokenizer_encodes_and_decodes() {
    let tokenizer = sentencepiece_like();
    assert_eq!((tokenizer.kind(), tokenizer.vocab_size(), tokenizer.eot()), ("file", 268, Some(1)));
    // By hand: " the" is one token, "é" falls back to its bytes, "</s>" is text unless asked for; nothing is truncated.
    assert_eq!(tokenizer.encode("ab the", false).unwrap(), [267, 266]);
    assert_eq!(tokenizer.encode("é", false).unwrap(), [2 + 0xc3, 2 + 0xa9]);
    assert_eq!(tokenizer.encode("a</s>", true).unwrap(), [259, 1]);
    assert_eq!(tokenizer.encode("</s>", false).unwrap().len(), 4);
    assert_eq!(tokenizer.encode("a b a b", false).unwrap().len(), 7);
    assert_eq!(tokenizer.decode(&[267, 266, 2 + 0xc3, 2 + 0xa9]).unwrap(), "ab theé");
}

/// The stream's text, all in all, is what decoding at once gives; and each part is whole characters.
fn check_stream(tokenizer: &Tokenizer, ids: &[u32]) {
    let mut stream = StreamDecoder::new(tokenizer);
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.finish());
    assert_eq!(text, tokenizer.decode(ids).unwrap(), "{tokenizer:?} {ids:?}");
    assert_eq!(stream.finish(), "");
}

#[test]
fn streaming_holds_back_unfinished_characters() {
    for tokenizer in [Tokenizer::bytes(), sentencepiece_like()] {
        let ids = tokenizer.encode("aé", false).unwrap();
        let mut stream = StreamDecoder::new(&tokenizer);
        assert_eq!(ids.iter().map(|&id| stream.push(id)).collect::<Vec<_>>(), ["a", "", "é"]);
        assert_eq!(stream.push(ids[1]), "");
        // The crate breaks the whole run of fallen-back bytes over one that is unfinished.
        let rest = stream.finish();
        assert!(if tokenizer.kind() == "bytes" { rest == "\u{fffd}" } else { rest.ends_with('\u{fffd}') }, "{rest:?}");
        assert_eq!(stream.push(tokenizer.vocab_size() as u32) + &stream.finish(), "\u{fffd}", "more rows than tokens");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn streaming_equals_decoding_at_once(raw in prop::collection::vec(any::<u32>(), 0..40), text in tricky_text()) {
        for tokenizer in all_kinds() {
            let size = tokenizer.vocab_size() as u32;
            if tokenizer.kind() != "file" {
                check_stream(&tokenizer, &raw.iter().map(|id| id % size).collect::<Vec<_>>());
            }
            if let Ok(ids) = tokenizer.encode(&text, true) && tokenizer.decode(&ids).unwrap() == text {
                check_stream(&tokenizer, &ids);
            }
        }
    }

    #[test]
    fn pieces_have_the_ids_of_the_whole(text in tricky_text(), size in 1usize..40, special: bool) {
        for tokenizer in all_kinds() {
            let Ok(whole) = tokenizer.encode(&text, special) else { continue };
            let mut ids = Vec::new();
            for piece in tokenizer.pieces(&text, size, special) {
                tokenizer.encode_into(piece, special, &mut ids).unwrap();
            }
            prop_assert_eq!(&ids, &whole);
            prop_assert_eq!(tokenizer.encode_parallel(&text, special).unwrap(), whole);
        }
    }
}

#[test]
fn the_number_of_ids_is_known_without_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let size = |name: &str| Tokenizer::vocab_size_of(name).unwrap();
    assert_eq!((size("gpt2"), size("bytes")), (50_257, 257));
    let chars = Tokenizer::chars(["abc"].into_iter(), true).unwrap();
    for (name, tokenizer) in [("chars", chars), ("llama", sentencepiece_like()), ("gpt2", Tokenizer::gpt2().unwrap())] {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        tokenizer.save(&path, 8).unwrap();
        assert_eq!(size(&path.to_string_lossy()), tokenizer.vocab_size(), "{name}");
        assert_eq!(size(&path.join("tokenizer.json").to_string_lossy()), tokenizer.vocab_size(), "{name}");
    }
    assert!(Tokenizer::vocab_size_of("no-such-tokenizer").is_err());
    assert!(Tokenizer::vocab_size_of(&folder.path().to_string_lossy()).is_err());
}
