//! A preparation that is killed and run again makes the bytes of one that never was.

use std::path::Path;

use super::preparing::{contents, options};
use super::{Bytes, Failing, prose, says, write};
use taper::data::{PrepareOptions, ShardOptions, Shards, prepare};
use taper::ui::Silent;

/// Lines of very different lengths, one of them of several pieces, so that shards end within documents and pieces.
fn lines(folder: &Path) -> String {
    let mut text = String::new();
    for i in 0..60u64 {
        let bytes = if i == 20 { 600_000 } else { (i as usize * 37) % 400 };
        text.push_str(
            &serde_json::json!({ "text": if i % 9 == 4 { String::new() } else { prose(i, bytes) } }).to_string(),
        );
        text.push('\n');
    }
    write(folder.join("a.jsonl"), text)
}

#[test]
fn killed_anywhere_it_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (lines, plain) = (lines(folder.path()), write(folder.path().join("b.txt"), prose(7, 50_000)));
    let with = |out: &Path| PrepareOptions {
        val_fraction: 0.21,
        shard_tokens: 20_011,
        threads: 2,
        ..options(&[&plain, &lines, &plain], out)
    };
    let whole = folder.path().join("whole");
    prepare(&with(&whole), &Bytes, &Silent).unwrap();
    let expected = contents(&whole);
    assert!(expected.len() > 30);

    // Killed while encoding, over and over, a little later each time, in one folder.
    let out = folder.path().join("killed");
    for pieces in 0..62 {
        let _ = prepare(&with(&out), &Failing(pieces.into()), &Silent);
    }
    prepare(&with(&out), &Bytes, &Silent).unwrap();
    assert!(contents(&out) == expected);
}

/// Unlike a failing encoder, a full disk stops the work between any two steps. Here it is played by a folder in the place
/// of the next file, at every file that the work makes, in turn.
#[test]
fn stopped_at_any_file_it_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let plain = write(folder.path().join("b.txt"), prose(7, 20_000));
    let lines = lines(folder.path());
    let with =
        |out: &Path| PrepareOptions { val_fraction: 0.3, shard_tokens: 50_021, ..options(&[&lines, &plain], out) };
    let whole = folder.path().join("whole");
    prepare(&with(&whole), &Bytes, &Silent).unwrap();
    let expected = contents(&whole);
    let mut stopped = 0;
    // The training shards before the tail is cut off are more than those at the end.
    let more = (0..12).flat_map(|i| [format!("train_{i:06}.bin"), format!("val_{i:06}.bin")]);
    for name in more.chain(["manifest.json".to_string()]) {
        let out = folder.path().join(format!("stopped-at-{name}"));
        let obstacle = out.join(format!(".{name}.tmp"));
        std::fs::create_dir_all(&obstacle).unwrap();
        let result = prepare(&with(&out), &Bytes, &Silent);
        if result.is_err() {
            stopped += 1;
            assert!(!out.join("manifest.json").exists());
            says(result, &[".tmp"]);
            let opened = Shards::open(&out.display().to_string(), &ShardOptions::default());
            says(opened, &["was not finished", "taper data prepare"]);
        }
        let _ = std::fs::remove_dir(&obstacle);
        prepare(&with(&out), &Bytes, &Silent).unwrap();
        assert!(contents(&out) == expected, "{name}");
    }
    assert!(stopped > 8, "{stopped}");
}

#[test]
fn changed_inputs_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let out = folder.path().join("out");
    let text = prose(1, 600_000);
    let input = write(&path, &text);
    let with = PrepareOptions { shard_tokens: 100_000, ..options(&[&input], &out) };
    // Two pieces of three, so two whole shards at least.
    assert!(prepare(&with, &Failing(2.into()), &Silent).is_err());
    write(&path, prose(2, 600_000));
    prepare(&with, &Bytes, &Silent).unwrap();
    let fresh = folder.path().join("fresh");
    prepare(&PrepareOptions { out: fresh.clone(), ..with }, &Bytes, &Silent).unwrap();
    assert!(contents(&out) == contents(&fresh));
}

#[test]
fn two_processes_do_not_prepare_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let input = write(folder.path().join("a.txt"), "text");
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let other = std::fs::File::create(out.join(".lock")).unwrap();
    other.lock().unwrap();
    says(prepare(&options(&[&input], &out), &Bytes, &Silent), &["another process", "out"]);
    drop(other);
    prepare(&options(&[&input], &out), &Bytes, &Silent).unwrap();
}
