//! Bad input: one clear sentence with the place and the remedy, the right exit code, nothing lost.

use super::common::{Shop, stderr};

/// Runs with one more option; gives exit code and message, of which only the last line may be an error.
fn fails(shop: &Shop, more: &[&str]) -> (i32, String) {
    let output = shop.train("runs/bad", more);
    let text = stderr(&output);
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(text.matches("error:").count(), 1, "{text}");
    (output.status.code().unwrap(), text)
}

#[test]
fn what_is_wrong_is_named() {
    let shop = Shop::new();
    std::fs::write(shop.path("empty.txt"), "").unwrap();
    std::fs::write(shop.path("short.txt"), "ten bytes!").unwrap();
    std::fs::write(shop.path("latin1.txt"), b"caf\xe9 and more text that is long enough to train").unwrap();
    let cases: [(&[&str], i32, &[&str]); 9] = [
        (&["--set", "optimizer.learning_rate=1"], 2, &["learning_rate", "lr"]),
        (&["--set", "data.text=missing.txt"], 1, &["missing.txt", "no such file"]),
        (&["--set", "data.text=empty.txt"], 2, &["empty"]),
        (&["--set", "data.text=short.txt"], 2, &["17", "context_length"]),
        (&["--set", "data.text=latin1.txt"], 1, &["latin1.txt", "byte 3"]),
        (&["--set", "model.vocab_size=100"], 2, &["vocab_size", "257"]),
        (&["--set", "train.micro_batch=3"], 2, &["micro_batch", "global_batch"]),
        (&["--device", "cuda"], 1, &["--device cpu"]),
        (&["--device", "tpu"], 2, &["tpu", "cuda"]),
    ];
    for (more, code, words) in cases {
        let (found, text) = fails(&shop, more);
        assert_eq!(found, code, "{more:?}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{more:?}: {text}");
    }
}

#[test]
fn a_run_is_never_overwritten_and_used_by_one_process() {
    let shop = Shop::new();
    shop.trained("runs/a", &["--set", "train.max_steps=3"]);
    let before = std::fs::read(shop.path("runs/a/events.jsonl")).unwrap();
    let output = shop.train("runs/a", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--resume"), "{}", stderr(&output));
    assert_eq!(std::fs::read(shop.path("runs/a/events.jsonl")).unwrap(), before);

    let folder = taper::run::folder::RunFolder::open(&shop.path("runs/a"), true).unwrap();
    let output = shop.train("runs/a", &["--resume"]);
    assert!(stderr(&output).contains("in use by another process"), "{}", stderr(&output));
    drop(folder);
}

#[test]
fn shards_of_another_tokenizer_or_vocabulary_are_refused() {
    let shop = Shop::new();
    let prepare = |tokenizer: &str, out: &str| {
        let arguments =
            ["data", "prepare", "text.txt", "--tokenizer", tokenizer, "--out", out, "--val-fraction", "0.1"];
        let output = shop.taper(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    };
    prepare("gpt2", "gpt2");
    prepare("bytes", "bytes");
    let config = super::common::CONFIG.replace("text = [\"text.txt\"]\nval_fraction = 0.1", "shards = \"bytes\"");
    std::fs::write(shop.path("tiny.toml"), config).unwrap();
    shop.trained("runs/good", &["--set", "train.max_steps=3"]);
    assert!(shop.log("runs/good").evals().count() > 0);
    let (_, text) = fails(&shop, &["--set", "data.shards=gpt2"]);
    assert!(text.contains("tokenizer"), "{text}");

    // A folder without a manifest cannot say what made it, but its ids can: GPT-2's do not fit 257.
    let shard = std::fs::read_dir(shop.path("gpt2")).unwrap().flatten().find(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.ends_with(".bin") && !name.contains("val")
    });
    std::fs::create_dir(shop.path("bare")).unwrap();
    let bare = shop.path("bare/part_train_000000.bin");
    std::fs::copy(shard.unwrap().path(), &bare).unwrap();
    let (code, text) = fails(&shop, &["--set", "data.shards=bare"]);
    assert!(code == 1 && text.contains("part_train_000000.bin") && text.contains("257"), "{text}");

    let whole = std::fs::read(&bare).unwrap();
    std::fs::write(&bare, &whole[..whole.len() - 100]).unwrap();
    let (code, text) = fails(&shop, &["--set", "data.shards=bare"]);
    assert!(code == 1 && text.contains("part_train_000000.bin"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing() {
    use std::os::unix::fs::symlink;
    // /dev/full accepts every open and refuses every write, as a full disk does.
    if !std::path::Path::new("/dev/full").exists() {
        println!("skipped: this system has no /dev/full");
        return;
    }
    let shop = Shop::new();
    std::fs::create_dir_all(shop.path("runs/bad")).unwrap();
    symlink("/dev/full", shop.path("runs/bad/events.jsonl")).unwrap();
    let output = shop.train("runs/bad", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("disk is full"), "{}", stderr(&output));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let shop = Shop::new();
    std::fs::write(shop.path("file"), "").unwrap();
    let output = shop.train("file/run", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("file/run"), "{}", stderr(&output));
}
