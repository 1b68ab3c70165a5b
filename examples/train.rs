//! Trains a very small GPT on a small text, with what `taper train` is made of: `cargo run --release --example train`.

use std::sync::atomic::AtomicBool;

use taper::config::Config;
use taper::events::Event;
use taper::run::{self, Options};
use taper::train::Observer;
use taper::ui::{Level, Ui};

/// Shows messages.
struct Screen;

impl Ui for Screen {
    fn message(&self, level: Level, text: &str) {
        eprintln!("{}{text}", level.prefix());
    }
}

/// Shows every tenth step.
struct Steps;

impl Observer for Steps {
    fn event(&mut self, event: &Event) {
        if let Event::Step(step) = event
            && step.step.is_multiple_of(10)
        {
            println!("step {} loss {:.4}", step.step, step.loss);
        }
    }
}

const CONFIG: &str = r#"
model = { n_layer = 2, n_head = 2, n_embd = 32, context_length = 32 }
tokenizer = { kind = "chars" }
data = { val_fraction = 0.1 }
train = { micro_batch = 4, global_batch = 8, max_steps = 60 }
optimizer = { lr = 1e-2 }
schedule = { warmup_steps = 5 }
"#;

fn main() -> taper::Result<()> {
    let folder = tempfile::tempdir().map_err(taper::Error::io("create", "a folder"))?;
    let text = folder.path().join("text.txt");
    let lines: String = (0..400).map(|i| format!("{i} and {} make {}.\n", i % 7, i + i % 7)).collect();
    std::fs::write(&text, lines).map_err(taper::Error::io("write", &text))?;

    let mut config = Config::from_str(CONFIG, "the example", &[])?;
    config.data.text = vec![text.display().to_string()];
    let options = Options { folder: Some(folder.path().join("run")), ..Options::default() };
    let mut prepared = run::prepare(config, options, &Screen)?;
    let trained = prepared.train(&mut [&mut Steps], &AtomicBool::new(false), &Screen)?;
    println!("{} steps, last loss {:.4}", trained.step, trained.loss.unwrap_or(f64::NAN));
    Ok(())
}
