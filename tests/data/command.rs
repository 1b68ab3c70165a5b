//! `taper data` as a user runs it.

use std::path::Path;
use std::process::Output;

use super::write;
use serde_json::Value;

fn taper(folder: &Path, arguments: &str) -> Output {
    crate::program::taper(folder).arg("data").args(arguments.split_whitespace()).output().unwrap()
}

/// Standard output of a command that must succeed, and standard error.
fn done(folder: &Path, arguments: &str) -> (String, String) {
    let output = taper(folder, arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments}: {error}");
    (String::from_utf8(output.stdout).unwrap(), error)
}

#[test]
fn prepare_and_inspect_go_together() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root.join("README.md"), "hello world, hello again and again and again");
    // The example of --help.
    let (out, error) = done(root, "prepare README.md --tokenizer gpt2 --val-fraction 0.1 --out data/readme");
    assert_eq!(error, "", "no bar and no noise where standard error is no terminal");
    // The ids by tiktoken; of n, the whole part of 0.9 n is kept.
    let ids = tiktoken_rs::r50k_base_singleton().encode_ordinary("hello world, hello again and again and again");
    let kept = (ids.len() as f64 * 0.9) as usize;
    assert!(out.contains(&format!("{kept} tokens for training, {} for validation", ids.len() - kept)), "{out}");

    let (out, _) = done(root, "inspect data/readme --at 1 --tokens 3 --verify --json");
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["excerpt"]["text"], " world, hello");
    assert_eq!(value["excerpt"]["tokens"], serde_json::json!(ids[1..4]));
    assert_eq!((&value["verified"], &value["train_tokens"]), (&Value::from(2), &Value::from(kept)));
    let (out, _) = done(root, "inspect data/readme --at 0");
    assert!(out.contains("gpt2 (50,257 ids") && out.contains("hello world"), "{out}");

    let (out, error) = done(root, "prepare README.md --tokenizer gpt2 --val-fraction 0.1 --out data/readme --json");
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["tokenizer"]["vocab_size"], 50257);
    assert!(error.contains("already prepared"), "{error}");
}

#[test]
fn mistakes_have_a_sentence_and_a_code() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root.join("a.txt"), "some text");
    done(root, "prepare a.txt --tokenizer bytes --out out");
    for (arguments, code, says) in [
        ("prepare none.txt --tokenizer bytes --out x", 1, "no such file"),
        ("prepare *.text --tokenizer bytes --out x", 2, "no file matches"),
        ("prepare a.txt --tokenizer none --out x", 2, "no tokenizer"),
        ("prepare a.txt --tokenizer bytes --out x --val-fraction 1", 2, "below 1"),
        ("prepare a.txt --tokenizer bytes --out a.txt", 1, "a.txt"),
        ("prepare a.txt --tokenizer gpt2 --out out", 2, "--overwrite"),
        ("inspect none", 2, "no token shards"),
        ("inspect out --at 9", 2, "has 9 tokens"),
        ("inspect out --at 0 --split val", 2, "no validation shards"),
        ("inspect out --tokenizer gpt2", 2, "another tokenizer"),
    ] {
        let output = taper(root, arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {error}");
        assert!(
            error.starts_with("error: ") && error.contains(says) && error.lines().count() == 1,
            "{arguments}: {error}"
        );
        assert!(output.stdout.is_empty());
    }
}
