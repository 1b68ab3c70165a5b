//! A whole run on a GPU, as a user starts it: training, validation, samples, checkpoints, and what is read from them.

use std::path::Path;

use taper::events::{Event, EventLog};

use super::{devices, taper};

const CONFIG: &str = r#"
[model]
n_layer = 2
n_head = 2
n_embd = 128
context_length = 24
dropout = 0.1

[tokenizer]
kind = "bytes"

[data]
text = ["TEXT"]
val_fraction = 0.1

[train]
micro_batch = 2
global_batch = 4
max_steps = 8
log_every = 3

[optimizer]
lr = 1e-3

[eval]
every = 4
max_tokens = 400

[checkpoint]
every = 4

[sample]
every = 4
prompt = ["the "]
max_new_tokens = 4
"#;

/// The last step's loss, the validation losses, the checkpoints' steps, and the last sample.
fn outcome(run: &Path) -> (Vec<f64>, Vec<f64>, Vec<u64>, String) {
    let log = EventLog::read(run.join("events.jsonl")).unwrap();
    let losses: Vec<f64> = log.steps().map(|step| step.loss).collect();
    let vals = log.evals().map(|eval| eval.loss).collect();
    let saved = log.checkpoints().map(|checkpoint| checkpoint.step).collect();
    let sample = log.events.iter().rev().find_map(|event| match event {
        Event::Sample(sample) => Some(sample.text.clone()),
        _ => None,
    });
    (losses, vals, saved, sample.unwrap())
}

#[test]
fn a_run_on_a_gpu_is_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let words = ["the", "small", "candle", "tapers", "and", "a", "learning", "rate", "does", "too"];
    let text: Vec<&str> = (0..1000).map(|i| words[i * i % 37 % 10]).collect();
    std::fs::write(at("text.txt"), text.join(" ")).unwrap();
    std::fs::write(at("run.toml"), CONFIG.replace("TEXT", &at("text.txt"))).unwrap();
    let train = |run: &str, more: &[&str]| {
        let words = ["train", &at("run.toml"), "--run", &at(run)];
        taper(&[&words[..], more].concat())
    };
    assert_eq!(train("cpu", &["--device", "cpu"]), 0);
    let (losses, vals, saved, _) = outcome(&folder.path().join("cpu"));
    for (place, device) in devices() {
        let device = device.to_string();
        for precision in ["fp32", "bf16", "fp16"] {
            let (name, setting) = (format!("{place}-{precision}"), format!("precision.compute={precision}"));
            assert_eq!(train(&name, &["--device", &device, "--set", &setting]), 0);
            let run = folder.path().join(&name);
            let (ours, our_vals, our_saved, sample) = outcome(&run);
            let near = if precision == "fp32" { 1e-4 } else { 0.02 };
            let close =
                |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < near * b);
            assert!(close(&ours, &losses), "{name}: {ours:?}, on the CPU {losses:?}");
            assert!(close(&our_vals, &vals), "{name}: {our_vals:?}, on the CPU {vals:?}");
            assert_eq!(our_saved, saved, "{name}");
            assert!(!sample.is_empty(), "{name}");

            if precision != "bf16" {
                continue;
            }
            // The same again, and the same bits in what a run leaves behind.
            assert_eq!(train(&format!("{name}-again"), &["--device", &device, "--set", &setting]), 0);
            let weights = |run: &str| {
                std::fs::read(folder.path().join(run).join("checkpoints/step-00000008/model.safetensors")).unwrap()
            };
            assert!(weights(&name) == weights(&format!("{name}-again")), "{name}: two runs differ");

            // A checkpoint of a GPU is a model folder like any other: the CPU reads it.
            let text = at("text.txt");
            let run = run.to_str().unwrap();
            assert_eq!(taper(&["eval", run, "--data", &text]), 0, "{name}");
            assert_eq!(taper(&["sample", run, "--prompt", "the ", "--max-new-tokens", "4", "--device", &device]), 0);
        }
        // What the first half left is continued, to the bits of the whole.
        let name = format!("{place}-bf16");
        let (whole, half) = (folder.path().join(&name), folder.path().join(format!("{place}-half")));
        copy(&whole, &half);
        std::fs::remove_dir_all(half.join("checkpoints/step-00000008")).unwrap();
        let words = ["train", &at("run.toml"), "--run", half.to_str().unwrap(), "--resume", "--device", &device];
        assert_eq!(taper(&[&words[..], &["--set", "precision.compute=bf16"]].concat()), 0);
        for file in ["model.safetensors", "training/arena.safetensors", "training/state.json"] {
            let read = |run: &Path| std::fs::read(run.join("checkpoints/step-00000008").join(file)).unwrap();
            assert!(read(&whole) == read(&half), "{place}: {file} differs after a resume");
        }
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(target).unwrap();
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
