//! `taper tokenizer` as a user runs it.

use std::path::Path;
use std::process::Command;

use crate::program::{self, told, told_with};

use super::shared;

fn taper(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = program::taper(folder);
    command.arg("tokenizer").args(arguments);
    command
}

/// Standard output of a command that succeeds.
fn output(folder: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let output = told_with(&mut taper(folder, arguments), input);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Exit code and standard error of a command that fails.
fn failure(folder: &Path, arguments: &[&str], input: &[u8]) -> (i32, String) {
    let output = told_with(&mut taper(folder, arguments), input);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// "hello world" is 31373 995 in GPT-2's published tests.
#[test]
fn encodes_and_decodes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("a.txt"), "hello world").unwrap();
    assert_eq!(output(at, &["encode", "a.txt", "--tokenizer", "gpt2", "--json"], b""), b"{\"ids\":[31373,995]}\n");
    assert_eq!(output(at, &["encode", "--tokenizer", "gpt2"], b"hello world"), b"31373 995\n");
    assert_eq!(output(at, &["encode", "--tokenizer", "gpt2", "--special"], b"<|endoftext|>"), b"50256\n");
    assert_eq!(output(at, &["encode", "--tokenizer", "bytes", "--json"], b""), b"{\"ids\":[]}\n");
    for ids in ["{\"ids\":[31373,995]}", "[31373, 995]", "31373 995\n", "31373,995"] {
        assert_eq!(output(at, &["decode", "--tokenizer", "gpt2"], ids.as_bytes()), b"hello world", "{ids}");
    }
    assert_eq!(output(at, &["decode", "-", "--tokenizer", "bytes"], b"255 0 10"), b"\xff\0\n", "exact bytes");
    assert_eq!(output(at, &["decode", "--tokenizer", "bytes"], b""), b"");
}

#[test]
fn trains_the_same_file_twice() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let text = "she sells sea shells; the shells she sells are sea shells\n".repeat(3);
    std::fs::write(at.join("corpus.odd"), &text).unwrap();
    output(at, &["train", "corpus.odd", "--vocab-size", "280", "--out", "new/tokenizer.json"], b"");
    output(at, &["train", "corpus.odd", "--vocab-size", "280", "--out", "b.json"], b"");
    assert_eq!(std::fs::read(at.join("new/tokenizer.json")).unwrap(), std::fs::read(at.join("b.json")).unwrap());
    let ids = output(at, &["encode", "corpus.odd", "--tokenizer", "new", "--json"], b"");
    assert_eq!(output(at, &["decode", "--tokenizer", "b.json"], &ids), text.as_bytes());
    output(at, &["train", "corpus.odd", "--vocab-size", "280", "--out", "."], b"");
    assert_eq!(std::fs::read(at.join("tokenizer.json")).unwrap(), std::fs::read(at.join("b.json")).unwrap());
    let (code, _, said) = told(&mut taper(at, &["train", "corpus.odd", "--vocab-size", "5000", "--out", "c.json"]));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("warning") && said.contains("instead of 5000"), "{said}");
}

#[test]
fn bad_input_gets_one_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("latin1.txt"), b"caf\xe9 x").unwrap();
    std::fs::write(at.join("empty.txt"), b"").unwrap();
    std::fs::write(at.join("torn.json"), b"{\"model\": {\"vo").unwrap();
    let cases: [(&[&str], &str, i32, &[&str]); 11] = [
        (&["encode", "none.txt", "--tokenizer", "gpt2"], "", 1, &["none.txt", "no such file"]),
        (&["encode", "latin1.txt", "--tokenizer", "gpt2"], "", 1, &["latin1.txt", "not UTF-8", "offset 3"]),
        (&["encode", "--tokenizer", "gpt5"], "", 2, &["gpt5", "give gpt2, bytes"]),
        (&["encode", "--tokenizer", "torn.json"], "", 1, &["torn.json", "not valid JSON", "line 1"]),
        (&["decode", "--tokenizer", "gpt2"], "1 50257", 1, &["standard input", "id 50257 at position 1"]),
        (&["decode", "--tokenizer", "gpt2"], "{\"ids\":[1,-2]}", 1, &["-2 at position 1"]),
        (&["decode", "--tokenizer", "gpt2"], "1 two", 1, &["\"two\" at position 1"]),
        (&["train", "empty.txt", "--vocab-size", "300", "--out", "t.json"], "", 2, &["empty"]),
        (&["train", "latin1.txt", "--vocab-size", "300", "--out", "t.json"], "", 1, &["latin1.txt", "byte 3"]),
        (&["train", "latin1.txt", "--vocab-size", "300", "--out", "empty.txt/t"], "", 1, &["cannot create empty.txt"]),
        (&["train", "latin1.txt", "--vocab-size", "10", "--out", "t.json"], "", 2, &["257"]),
    ];
    for (arguments, input, code, words) in cases {
        let (status, said) = failure(at, arguments, input.as_bytes());
        assert_eq!(status, code, "{arguments:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    assert!(!at.join("t.json").exists());
}

#[test]
fn help_shows_examples() {
    for command in ["train", "encode", "decode"] {
        let help = String::from_utf8(output(Path::new("."), &[command, "--help"], b"")).unwrap();
        assert!(help.contains("Example") && help.contains(&format!("taper tokenizer {command}")), "{help}");
    }
}

/// The example of `train --help`, in this repository.
#[test]
fn the_example_works() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tokenizer.json");
    let arguments = ["train", "src/**/*.rs", "Cargo.toml", "--vocab-size", "1024", "--out", out.to_str().unwrap()];
    let help = String::from_utf8(output(Path::new("."), &["train", "--help"], b"")).unwrap();
    assert!(help.contains("train 'src/**/*.rs' Cargo.toml --vocab-size 1024"), "{help}");
    output(Path::new(env!("CARGO_MANIFEST_DIR")), &arguments, b"");
    assert_eq!(taper::data::tokenizer::Tokenizer::from_file(&out).unwrap().vocab_size(), 1024);
}

/// A real text there and back.
#[test]
fn a_real_text_comes_back() {
    let Some(path) = shared("tinyshakespeare/input.txt") else { return };
    let ids = output(Path::new("."), &["encode", path.to_str().unwrap(), "--tokenizer", "gpt2", "--json"], b"");
    assert_eq!(output(Path::new("."), &["decode", "--tokenizer", "gpt2"], &ids), std::fs::read(path).unwrap());
}
