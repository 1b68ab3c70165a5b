//! Preparation from start to end: bytes, boundaries, splits, manifests, refusals.

use std::path::Path;

use super::layouts::llmc_u16;
use super::{Bytes, Chars, EOT, Gpt2, prose, says, write};
use taper::data::{Encode, Manifest, PrepareOptions, ShardOptions, Shards, Split, prepare};
use taper::ui::{Level, Silent, Ui};

pub fn options(inputs: &[&str], out: &Path) -> PrepareOptions {
    PrepareOptions { threads: 1, ..PrepareOptions::new(inputs.iter().map(|i| i.to_string()).collect(), out, "test") }
}

/// Every file of a prepared folder that is not hidden, with its bytes.
pub fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
    let temporary: Vec<_> = files.iter().filter(|path| name(path).ends_with(".tmp")).collect();
    assert!(temporary.is_empty(), "left behind: {temporary:?}");
    files.retain(|path| !name(path).starts_with('.'));
    files.iter().map(|path| (name(path), std::fs::read(path).unwrap())).collect()
}

pub fn tokens(folder: &Path, split: Split, vocab_size: usize) -> Vec<u32> {
    let shards = Shards::open(&folder.display().to_string(), &ShardOptions::default()).unwrap();
    shards.verify().unwrap();
    let (train, val) = shards.into_streams(vocab_size);
    let stream = if split == Split::Train { Some(train) } else { val };
    let Some(stream) = stream else { return Vec::new() };
    let mut tokens = vec![0; stream.len() as usize];
    stream.read(0, &mut tokens).unwrap();
    tokens
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn the_bytes_are_those_of_the_published_layout() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path().join("a.txt"), "ab");
    let b = write(folder.path().join("b.txt"), "c");
    let out = folder.path().join("out");
    let manifest = prepare(&options(&[&a, &b], &out), &Bytes, &Silent).unwrap();
    let files = contents(&out);
    assert_eq!(files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["manifest.json", "train_000000.bin"]);
    assert_eq!(files[1].1, llmc_u16(&[97, 98, 256, 99]));
    assert_eq!(Manifest::load(&out).unwrap().unwrap(), manifest);
    // XXH3-64 of the token bytes 61 00 62 00 00 01 63 00, by the reference implementation (xxhash.h, as zstd ships it).
    assert_eq!(manifest.shards[0].xxh3, "5d4e3a7d19ea5493");
    assert_eq!((manifest.documents, manifest.shards[0].documents), (2, Some(2)));
    assert_eq!(
        (manifest.tokenizer.vocab_size, manifest.tokenizer.eot, manifest.dtype.as_str()),
        (257, Some(256), "uint16")
    );
    assert_eq!((manifest.sources[1].bytes, manifest.sources[1].files), (1, 1));
}

#[test]
fn end_of_text_stands_between_documents_only() {
    let folder = tempfile::tempdir().unwrap();
    let empty = write(folder.path().join("0.txt"), "");
    let lines = write(folder.path().join("1.jsonl"), "{\"text\":\"one\"}\n{\"text\":\"\"}\n{\"text\":\"two\"}\n");
    let last = write(folder.path().join("2.txt"), "<|endoftext|>");
    let out = folder.path().join("out");
    let manifest = prepare(&options(&[&empty, &lines, &empty, &last, &empty], &out), &Bytes, &Silent).unwrap();
    let expected = [&ids("one")[..], &[EOT], &ids("two"), &[EOT], &ids("<|endoftext|>")].concat();
    assert_eq!(tokens(&out, Split::Train, 257), expected);
    assert_eq!(manifest.documents, 3);

    // With GPT-2, spelled-out marks are text, or marks, as asked.
    for (parse_special, expected) in [(false, vec![27, 91, 437, 1659, 5239, 91, 29]), (true, vec![50256])] {
        let out = folder.path().join(format!("special-{parse_special}"));
        let options = PrepareOptions { parse_special, ..options(&[&last], &out) };
        prepare(&options, &Gpt2, &Silent).unwrap();
        // The ids of the plain reading are those of tiktoken's encode_ordinary("<|endoftext|>").
        assert_eq!(tokens(&out, Split::Train, 50257), expected);
    }
}

#[test]
fn without_an_end_of_text_token_documents_are_concatenated_and_it_is_said() {
    struct Heard(std::sync::Mutex<String>);
    impl Ui for Heard {
        fn tokenized(&self, done: u64, total: u64, _: u64) {
            assert!(done <= total);
        }
        fn message(&self, _: Level, text: &str) {
            self.0.lock().unwrap().push_str(text);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path().join("a.txt"), "鯨");
    let out = folder.path().join("out");
    let heard = Heard(Default::default());
    let manifest = prepare(&options(&[&a, &a], &out), &Chars, &heard).unwrap();
    assert!(heard.0.lock().unwrap().contains("no end-of-text token"));
    assert_eq!((manifest.dtype.as_str(), manifest.documents, manifest.shards[0].documents), ("uint32", 2, None));
    let bytes = std::fs::read(out.join("train_000000.bin")).unwrap();
    assert_eq!(bytes[0..12], [20_240_801i32, 7, 2].map(i32::to_le_bytes).concat());
    assert_eq!(bytes[1024..], [0x9be8u32; 2].map(u32::to_le_bytes).concat());
    assert_eq!(tokens(&out, Split::Train, 0x11_0000), [0x9be8; 2]);
}

#[test]
fn the_last_fraction_is_held_out_at_the_exact_token() {
    let folder = tempfile::tempdir().unwrap();
    let text = prose(1, 1003);
    let path = write(folder.path().join("a.txt"), &text);
    let n = text.len();
    for (val_fraction, shard_tokens) in [(0.0, 100), (0.1, 100), (0.1, 5000), (0.5, 64), (0.999, 64), (0.001, 7)] {
        let out = folder.path().join(format!("out-{val_fraction}-{shard_tokens}"));
        let options = PrepareOptions { val_fraction, shard_tokens, ..options(&[&path], &out) };
        let manifest = prepare(&options, &Bytes, &Silent).unwrap();
        let kept = (n as f64 * (1.0 - val_fraction)).floor() as usize;
        assert_eq!(tokens(&out, Split::Train, 257), text.bytes().take(kept).map(u32::from).collect::<Vec<_>>());
        assert_eq!(tokens(&out, Split::Val, 257), text.bytes().skip(kept).map(u32::from).collect::<Vec<_>>());
        assert!(manifest.shards.iter().all(|shard| (1..=shard_tokens).contains(&shard.tokens)));
        assert_eq!(manifest.tokens(Split::Train) + manifest.tokens(Split::Val), n as u64);
        let files = contents(&out).len();
        assert_eq!(files, 1 + kept.div_ceil(shard_tokens as usize) + (n - kept).div_ceil(shard_tokens as usize));
    }
}

#[test]
fn nanogpt_splits_shakespeares_characters_at_the_same_place() {
    // nanoGPT's prepare.py prints 1,003,854 and 111,540 tokens for its 1,115,394 characters.
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path().join("a.txt"), "x".repeat(1_115_394));
    let out = folder.path().join("out");
    let manifest = prepare(&PrepareOptions { val_fraction: 0.1, ..options(&[&path], &out) }, &Bytes, &Silent).unwrap();
    assert_eq!((manifest.tokens(Split::Train), manifest.tokens(Split::Val)), (1_003_854, 111_540));
}

#[test]
fn no_split_begins_or_ends_with_end_of_text() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path().join("a.txt"), "aaaa");
    let b = write(folder.path().join("b.txt"), "bbbb");
    // aaaa | bbbb: nine tokens, the mark at position 4.
    for (val_fraction, train, val) in [(0.55, "aaaa", "bbbb"), (0.4, "aaaa", "bbbb"), (0.7, "aa", "aa|bbbb")] {
        let out = folder.path().join(format!("out-{val_fraction}"));
        let manifest = prepare(&PrepareOptions { val_fraction, ..options(&[&a, &b], &out) }, &Bytes, &Silent).unwrap();
        let expected = |text: &str| {
            ids(text).into_iter().map(|id| if id == u32::from(b'|') { EOT } else { id }).collect::<Vec<_>>()
        };
        assert_eq!(tokens(&out, Split::Train, 257), expected(train), "{val_fraction}");
        assert_eq!(tokens(&out, Split::Val, 257), expected(val), "{val_fraction}");
        let documents: Vec<_> = manifest.shards.iter().map(|shard| shard.documents.unwrap()).collect();
        assert_eq!(documents, [1, val.split('|').count() as u64]);
    }
    let tiny = write(folder.path().join("tiny.txt"), "t");
    let options = PrepareOptions { val_fraction: 0.5, ..options(&[&tiny], &folder.path().join("tiny")) };
    says(prepare(&options, &Bytes, &Silent), &["only 1 tokens", "val_fraction"]);
}

#[test]
fn validation_text_of_its_own_is_a_split_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let train = write(folder.path().join("a.txt"), "train");
    let val = write(folder.path().join("v.txt"), "val");
    let out = folder.path().join("out");
    let with = |val_inputs: &[&String], val_fraction| PrepareOptions {
        val_inputs: Some(val_inputs.iter().map(|i| i.to_string()).collect()),
        val_fraction,
        ..options(&[&train, &train], &out)
    };
    says(prepare(&with(&[&val], 0.1), &Bytes, &Silent), &["validation text and a val_fraction"]);
    says(prepare(&with(&[&train], 0.0), &Bytes, &Silent), &["a.txt", "both training and validation"]);
    let manifest = prepare(&with(&[&val, &val], 0.0), &Bytes, &Silent).unwrap();
    assert_eq!(tokens(&out, Split::Train, 257), [&ids("train")[..], &[EOT], &ids("train")].concat());
    assert_eq!(tokens(&out, Split::Val, 257), [&ids("val")[..], &[EOT], &ids("val")].concat());
    assert_eq!(manifest.documents, 4);
}

#[test]
fn the_thread_count_does_not_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..40 {
        write(folder.path().join(format!("in/{i}.txt")), prose(i, 1000 * (i as usize % 7) + 10));
    }
    write(folder.path().join("in/long.txt"), prose(99, 2_000_000));
    let root = folder.path().join("in").display().to_string();
    let mut made = Vec::new();
    for threads in [1, 4] {
        let out = folder.path().join(format!("out-{threads}"));
        let options = PrepareOptions { threads, val_fraction: 0.07, shard_tokens: 100_000, ..options(&[&root], &out) };
        prepare(&options, &Gpt2, &Silent).unwrap();
        made.push(contents(&out));
    }
    assert!(made[0].len() > 5 && made[0] == made[1]);

    // And the tokens are those of whole documents, one after the other, by tiktoken.
    let mut files: Vec<_> = (0..40).map(|i| format!("{i}.txt")).chain(["long.txt".into()]).collect();
    files.sort();
    let mut whole = Vec::new();
    for file in files {
        if !whole.is_empty() {
            whole.push(50256);
        }
        let text = std::fs::read_to_string(folder.path().join("in").join(file)).unwrap();
        whole.extend(tiktoken_rs::r50k_base_singleton().encode_ordinary(&text));
    }
    let out = folder.path().join("out-1");
    let both = [tokens(&out, Split::Train, 50257), tokens(&out, Split::Val, 50257)].concat();
    assert!(both == whole);
}

#[test]
fn folders_are_guarded() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path().join("a.txt"), "some text");
    let out = folder.path().join("out");
    let first = prepare(&options(&[&a], &out), &Bytes, &Silent).unwrap();
    let before = contents(&out);
    // Complete already: nothing is encoded again.
    let never = super::Failing(0.into());
    for overwrite in [false, true] {
        let same = PrepareOptions { overwrite, ..options(&[&a], &out) };
        assert_eq!(prepare(&same, &never, &Silent).unwrap(), first);
    }
    // Other options or other content: refused, and nothing is lost, unless it is asked for.
    let other = PrepareOptions { val_fraction: 0.5, ..options(&[&a], &out) };
    says(prepare(&other, &Bytes, &Silent), &["prepared from other inputs", "--overwrite"]);
    assert_eq!(contents(&out), before);
    prepare(&PrepareOptions { overwrite: true, ..other }, &Bytes, &Silent).unwrap();
    assert_eq!(tokens(&out, Split::Val, 257), ids(" text"));
    // Shards of another tool are not overwritten.
    let foreign = write(folder.path().join("foreign/train.bin"), [1, 0]);
    says(prepare(&options(&[&a], &folder.path().join("foreign")), &Bytes, &Silent), &["train.bin", "was not made by"]);
    assert_eq!(std::fs::read(foreign).unwrap(), [1, 0]);
    // Another tokenizer than the one in use.
    let opened = |hash: &str| {
        let options = ShardOptions { tokenizer_hash: Some(hash.into()), ..ShardOptions::default() };
        Shards::open(&out.display().to_string(), &options)
    };
    assert!(opened(Bytes.hash()).is_ok());
    says(opened("0123"), &["made by another tokenizer", "\"test\"", "0123", "prepare them anew"]);
}

#[test]
fn damage_to_a_prepared_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path().join("a.txt"), prose(5, 1000));
    let out = folder.path().join("out");
    let options = PrepareOptions { shard_tokens: 400, ..options(&[&a], &out) };
    prepare(&options, &Bytes, &Silent).unwrap();
    let open = || Shards::open(&out.display().to_string(), &ShardOptions::default());
    let shard = out.join("train_000001.bin");
    let whole = std::fs::read(&shard).unwrap();

    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&shard, flipped).unwrap();
    assert!(open().is_ok(), "sizes cannot show a flipped bit");
    says(open().unwrap().verify(), &["train_000001.bin", "checksum", "prepare the folder anew"]);

    std::fs::write(&shard, llmc_u16(&[1, 2])).unwrap();
    says(open(), &["train_000001.bin", "holds 2 tokens", "manifest.json says 400"]);
    std::fs::remove_file(&shard).unwrap();
    says(open(), &["train_000001.bin", "no such file"]);
    // The same command repairs it.
    prepare(&options, &Bytes, &Silent).unwrap();
    assert_eq!(std::fs::read(&shard).unwrap(), whole);
    assert_eq!(open().unwrap().verify().unwrap(), 3);

    let manifest = std::fs::read_to_string(out.join("manifest.json")).unwrap();
    for (text, parts) in [
        ("{", ["manifest.json", "not JSON"]),
        ("{}", ["manifest.json", "not a manifest"]),
        (&manifest.replace("\"version\": 1", "\"version\": 2"), ["manifest.json", "version 2"]),
        (&manifest.replace("\"hash\"", "\"hush\""), ["manifest.json", "hash"]),
    ] {
        write(out.join("manifest.json"), text);
        says(open(), &parts);
    }
}

#[test]
fn bad_requests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let empty = write(folder.path().join("empty.txt"), "");
    let file = write(folder.path().join("a.txt"), "text");
    let out = folder.path().join("out");
    let try_with = |change: &dyn Fn(&mut PrepareOptions)| {
        let mut options = options(&[&file], &out);
        change(&mut options);
        prepare(&options, &Bytes, &Silent)
    };
    says(try_with(&|o| o.inputs = vec![empty.clone()]), &["no training text", "all empty"]);
    assert!(contents(&out).is_empty());
    says(try_with(&|o| o.val_inputs = Some(vec![empty.clone()])), &["no validation text"]);
    for fraction in [1.0, -0.1, f64::NAN] {
        says(try_with(&|o| o.val_fraction = fraction), &["val_fraction", "below 1"]);
    }
    says(try_with(&|o| o.shard_tokens = 0), &["a shard holds from 1"]);
    says(try_with(&|o| o.shard_tokens = 1 << 31), &["a shard holds from 1 to 2147483647"]);
    says(try_with(&|o| o.out = file.clone().into()), &["a.txt"]);

    struct Beyond;
    impl Encode for Beyond {
        fn encode_into(&self, _: &str, _: bool, ids: &mut Vec<u32>) -> taper::Result<()> {
            ids.push(70_000);
            Ok(())
        }
        fn vocab_size(&self) -> usize {
            257
        }
        fn eot(&self) -> Option<u32> {
            None
        }
        fn hash(&self) -> &str {
            "beyond"
        }
    }
    says(prepare(&options(&[&file], &out), &Beyond, &Silent), &["id 70000", "257"]);
}
