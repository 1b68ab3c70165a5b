//! A workshop: a temporary folder with a text and a config, and ways to run the binary in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use taper::events::{Event, EventLog};

pub struct Shop {
    folder: tempfile::TempDir,
}

/// A config that trains in a second: bytes, one narrow layer.
pub const CONFIG: &str = r#"
[run]
name = "tiny"
seed = 5
[model]
n_layer = 1
n_head = 2
n_embd = 16
context_length = 16
dropout = 0.1
[tokenizer]
kind = "bytes"
[data]
text = ["text.txt"]
val_fraction = 0.1
[train]
micro_batch = 2
global_batch = 8
max_steps = 40
log_every = 5
[optimizer]
lr = 1e-2
[schedule]
warmup_steps = 4
[eval]
every = 10
[checkpoint]
every = 10
[sample]
every = 20
prompt = ["the"]
max_new_tokens = 8
"#;

impl Shop {
    pub fn new() -> Shop {
        let folder = tempfile::tempdir().unwrap();
        let words = ["the", "lamp", "burns", "low", "and", "night", "is", "long", "but", "day", "will", "come"];
        // A text with structure: word i^2 mod 12, so that a model can learn something.
        let text: Vec<&str> = (0..1200usize).map(|i| words[i * i % 12]).collect();
        std::fs::write(folder.path().join("text.txt"), text.join(" ")).unwrap();
        std::fs::write(folder.path().join("tiny.toml"), CONFIG).unwrap();
        Shop { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `taper` with these arguments, in the shop.
    pub fn taper(&self, arguments: &[&str]) -> Command {
        let mut command = crate::program::taper(self.folder.path());
        command.args(arguments);
        command
    }

    pub fn train(&self, run: &str, more: &[&str]) -> Output {
        let mut arguments = vec!["train", "tiny.toml", "--run", run];
        arguments.extend_from_slice(more);
        self.taper(&arguments).output().unwrap()
    }

    /// As [`Shop::train`], which must succeed.
    pub fn trained(&self, run: &str, more: &[&str]) -> Output {
        let output = self.train(run, more);
        assert!(output.status.success(), "{}", stderr(&output));
        output
    }

    pub fn log(&self, run: &str) -> EventLog {
        EventLog::read(self.path(run).join("events.jsonl")).unwrap()
    }

    /// The bytes of a checkpoint's files that decide how training continues, by name.
    pub fn checkpoint(&self, run: &str, step: u64) -> Vec<(String, Vec<u8>)> {
        let folder = self.path(run).join(format!("checkpoints/step-{step:08}"));
        let names = ["model.safetensors", "config.json", "tokenizer.json", "README.md"];
        let training = ["training/arena.safetensors", "training/state.json"];
        names.iter().chain(&training).map(|name| (name.to_string(), read(&folder.join(name)))).collect()
    }
}

pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Events of a log without their timings, as text.
pub fn timeless(log: &EventLog) -> Vec<String> {
    let keep = |event: &&Event| !matches!(event, Event::Start(_) | Event::Resume(_) | Event::End(_));
    log.events
        .iter()
        .filter(keep)
        .map(|event| taper::events::without_timings(&serde_json::to_string(event).unwrap()).unwrap())
        .collect()
}
