//! A run that an earlier version of the program began continues as if that version had finished it.
//!
//! `tests/fixtures/old_run` was made before the library was divided anew (version 0.1.0): a run of 20 steps, cut after the
//! checkpoint of step 10 as a kill leaves it. On hardware whose result is recorded every byte must be the same; elsewhere
//! losses agree to 1e-5, since matrix products sum in another order there.

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use taper::device::info::CpuInfo;
use taper::events::without_timings;

use super::common::{Shop, read, timeless};

/// How far losses may be apart on hardware that nothing is recorded for.
const ELSEWHERE: f64 = 1e-5;

fn copy(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from).into_iter().map(Result::unwrap) {
        let to = to.join(entry.path().strip_prefix(from).unwrap());
        match entry.file_type().is_dir() {
            true => std::fs::create_dir_all(to).unwrap(),
            false => std::fs::copy(entry.path(), to).map(|_| ()).unwrap(),
        }
    }
}

#[test]
fn a_run_of_an_earlier_version_ends_in_the_same_bytes() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/old_run");
    let shop = Shop::new();
    copy(&fixture.join("run"), &shop.path("runs/old"));
    let config = shop.path("runs/old/config.toml");
    let output = shop.taper(&["train", config.to_str().unwrap(), "--run", "runs/old", "--resume"]).output().unwrap();
    assert!(output.status.success(), "{}", super::common::stderr(&output));

    let expected: Value = serde_json::from_slice(&read(&fixture.join("expected.json"))).unwrap();
    let lines =
        expected["events"].as_array().unwrap().iter().map(|line| without_timings(line.as_str().unwrap()).unwrap());
    let lines: Vec<String> = lines.collect();
    let all = timeless(&shop.log("runs/old"));
    let found = &all[all.len() - lines.len()..];
    for (found, expected) in found.iter().zip(&lines) {
        let [found, expected]: [Value; 2] = [found, expected].map(|line| serde_json::from_str(line).unwrap());
        assert_eq!((&found["event"], &found["step"]), (&expected["event"], &expected["step"]));
        if let (Some(loss), Some(recorded)) = (found["loss"].as_f64(), expected["loss"].as_f64()) {
            assert!((loss - recorded).abs() <= ELSEWHERE * recorded, "{found}\n{expected}");
        }
    }
    let kind = CpuInfo::of_this_machine().kind();
    let Some(files) = expected["kinds"].get(&kind).and_then(Value::as_object) else {
        println!("nothing is recorded for \"{kind}\": losses were compared to {ELSEWHERE:e}, bytes were not");
        return;
    };
    assert_eq!(found, lines);
    for (name, sha256) in files {
        let bytes = read(&shop.path("runs/old/checkpoints/step-00000020").join(name));
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Value::from(digest), *sha256, "{name} has other bytes than the earlier version wrote");
    }
}
