//! Reading and writing tokenizer files: what others write, what is damaged, and what must not be lost.

use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use taper::data::tokenizer::{Tokenizer, train_bpe};

use super::{kinds::sentencepiece_like, tricky_text};

fn small_bpe() -> Tokenizer {
    let corpus = "the shells, the shells größer aaaa abab 1000 1000".to_string();
    train_bpe(&mut [Ok(corpus)].into_iter(), 270, &|_, _| ()).unwrap()
}

fn saved(tokenizer: &Tokenizer) -> String {
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path(), 64).unwrap();
    std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap()
}

fn read(json: &str) -> taper::Result<Tokenizer> {
    Tokenizer::from_json(json, Path::new("t.json"))
}

fn message(json: &str) -> String {
    read(json).unwrap_err().to_string()
}

#[test]
fn every_kind_survives_saving() {
    let chars = |eot| Tokenizer::chars(["héllo \"\\\n wörld"].into_iter(), eot).unwrap();
    for tokenizer in
        [Tokenizer::bytes(), small_bpe(), chars(true), chars(false), sentencepiece_like(), Tokenizer::gpt2().unwrap()]
    {
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path(), 64).unwrap();
        for path in [folder.path(), &folder.path().join("tokenizer.json")] {
            let back = Tokenizer::from_file(path).unwrap();
            assert_eq!(back.kind(), tokenizer.kind());
            assert_eq!(back.hash(), tokenizer.hash());
            assert_eq!((back.vocab_size(), back.eot()), (tokenizer.vocab_size(), tokenizer.eot()));
            let ids: Vec<u32> = (0..back.vocab_size() as u32).collect();
            assert_eq!(back.decode_bytes(&ids).unwrap(), tokenizer.decode_bytes(&ids).unwrap());
        }
    }
}

/// Truth: the `tokenizers` crate reads our files and gives our ids, for characters too.
#[test]
fn the_crate_reads_our_character_files() {
    let chars = Tokenizer::chars(["héllo \n wörld"].into_iter(), true).unwrap();
    let reference = tokenizers::Tokenizer::from_bytes(saved(&chars)).unwrap();
    let text = "héllo<|endoftext|>\n wörld";
    let theirs = reference.encode_fast(text, true).unwrap();
    assert_eq!(chars.encode(text, true).unwrap(), theirs.get_ids());
    assert_eq!(reference.decode(theirs.get_ids(), false).unwrap(), text);
    assert!(reference.encode_fast("x", true).is_err(), "an unknown character is an error there, too");
}

/// Changes that leave our encoder's shape go to the crate; both read the file alike. Truth: the crate itself.
#[test]
fn foreign_shapes_run_on_the_crate() {
    let base: Value = serde_json::from_str(&saved(&small_bpe())).unwrap();
    let edits: [(&str, Value); 5] = [
        ("/normalizer", json!({"type": "Lowercase"})),
        ("/pre_tokenizer/add_prefix_space", json!(true)),
        ("/pre_tokenizer/use_regex", json!(false)),
        ("/model/ignore_merges", json!(true)),
        ("/added_tokens/0/lstrip", json!(true)),
    ];
    for (place, value) in edits {
        let mut file = base.clone();
        *file.pointer_mut(place).unwrap() = value;
        let tokenizer = read(&file.to_string()).unwrap();
        assert_eq!(tokenizer.kind(), "file", "{place}");
        let reference = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
        let text = "The shells größer\n <|endoftext|> aaaa";
        assert_eq!(
            tokenizer.encode(text, true).unwrap(),
            reference.encode_fast(text, false).unwrap().get_ids(),
            "{place}"
        );
        assert_eq!(saved(&tokenizer), file.to_string(), "a foreign file is kept byte for byte");
    }
}

fn with_added_tokens() -> Value {
    let mut file: Value = serde_json::from_str(&saved(&small_bpe())).unwrap();
    let size = file["model"]["vocab"].as_object().unwrap().len();
    let added = file["added_tokens"].as_array_mut().unwrap();
    for (id, content, special) in [(0, "<b>", true), (1, "</b>", false), (2, "lowest", false), (3, "b>a", false)] {
        let plain = json!({"id": size + id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": special});
        added.push(plain);
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Added tokens, special or not, overlapping or not. Truth: the `tokenizers` crate.
    #[test]
    fn added_tokens_are_found_as_by_the_crate(text in tricky_text()) {
        let file = with_added_tokens().to_string();
        let tokenizer = read(&file).unwrap();
        prop_assert_eq!(tokenizer.kind(), "bpe");
        prop_assert_eq!(tokenizer.vocab_size(), small_bpe().vocab_size() + 4);
        let mut reference = tokenizers::Tokenizer::from_bytes(&file).unwrap();
        for special in [true, false] {
            reference.set_encode_special_tokens(!special);
            let theirs = reference.encode_fast(text.as_str(), false).unwrap();
            prop_assert_eq!(tokenizer.encode(&text, special).unwrap(), theirs.get_ids());
        }
        prop_assert_eq!(read(&saved(&tokenizer)).unwrap().encode(&text, true).unwrap(), tokenizer.encode(&text, true).unwrap());
    }

    /// Whatever bytes are changed, reading ends in a tokenizer or an error, never in a panic.
    #[test]
    fn damaged_files_never_panic(at in 0.0..1.0f64, with in prop::sample::select(vec!["", "\"", "0", "}", "[", "99999999999", "null"]), cut: bool) {
        for file in [saved(&Tokenizer::chars(["abc"].into_iter(), true).unwrap()), with_added_tokens().to_string()] {
            let mut at = (at * file.len() as f64) as usize;
            while !file.is_char_boundary(at) {
                at -= 1;
            }
            let rest = if cut { "" } else { &file[at..][file[at..].chars().next().map_or(0, char::len_utf8)..] };
            if let Ok(tokenizer) = read(&format!("{}{with}{rest}", &file[..at])) {
                let _ = tokenizer.encode("the shells abc", true);
            }
        }
    }
}

#[test]
fn damage_is_named_with_its_place() {
    let good = saved(&small_bpe());
    let torn = message(&good[..good.len() / 2]);
    assert!(torn.contains("t.json") && torn.contains("line"), "{torn}");
    assert!(message("{}").contains("not a tokenizer.json"));
    assert!(message("").contains("not valid JSON"));
    let edit = |place: &str, value: Value| {
        let mut file: Value = serde_json::from_str(&good).unwrap();
        *file.pointer_mut(place).unwrap() = value;
        message(&file.to_string())
    };
    assert!(edit("/model/vocab/a", json!(-1)).contains("the id of \"a\""));
    assert!(edit("/model/vocab/a", json!(4_000_000_000u64)).contains("the id of \"a\""));
    assert!(edit("/model/vocab/a", json!(3)).contains("id 3 is given to"));
    let lacking = edit("/model/merges/1", json!(["a", "zz"]));
    assert!(lacking.contains("entry 1") && lacking.contains("lacks \"zz\""), "{lacking}");
    assert!(edit("/model/merges/1", json!(7)).contains("entry 1"));
    assert!(edit("/added_tokens/0", json!({"id": 269})).contains("added_tokens: entry 0"));
    assert!(edit("/model", json!({"type": "Nonsense"})).contains("cannot read this file"));
}

#[test]
fn a_folder_says_what_it_lacks_and_keeps_its_config() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_file(folder.path()).unwrap_err().to_string();
    assert!(error.contains("holds no tokenizer.json"), "{error}");
    assert!(Tokenizer::from_file(&folder.path().join("none.json")).is_err());

    let mut file: Value = serde_json::from_str(&saved(&small_bpe())).unwrap();
    file["added_tokens"] = json!([]);
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    let config =
        json!({"eos_token": {"content": "a"}, "chat_template": "x", "auto_map": {"AutoTokenizer": ["evil.py"]}});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::from_name_or_path(folder.path().to_str().unwrap()).unwrap();
    assert_eq!(tokenizer.token_bytes(tokenizer.eot().unwrap()).unwrap(), b"a");
    let copy = tempfile::tempdir().unwrap();
    tokenizer.save(copy.path(), 99).unwrap();
    let kept: Value =
        serde_json::from_slice(&std::fs::read(copy.path().join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(kept["chat_template"], "x");
    assert_eq!(kept["model_max_length"], 99);
    assert_eq!(kept["eos_token"]["content"], "a");
    assert_eq!(kept.get("auto_map"), None);

    std::fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    let error = Tokenizer::from_file(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json"), "{error}");
}

#[test]
fn names_are_known_or_refused() {
    assert_eq!(Tokenizer::from_name_or_path("bytes").unwrap().kind(), "bytes");
    let error = Tokenizer::from_name_or_path("gpt3").unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("gpt2, bytes"), "{error}");
}
