//! What went wrong in a run, and where to look: steps that were not finite, jumps of the loss, rollbacks, restarts.
//!
//! For each the data that the step consumed, and the command that shows its text: a bad document is the first suspect, and
//! with shuffled sequences nobody can compute by hand where it lies.

use super::Run;
use crate::events::{Action, DataRange, Event, number_to_string};
use serde::Serialize;

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Incident {
    /// The optimizer step.
    pub step: u64,
    /// "nonfinite", "spike", "rollback" or "resume".
    pub kind: &'static str,
    /// What the gradients of a non-finite step were like.
    pub class: Option<&'static str>,
    /// The first parameter with a non-finite gradient.
    pub parameter: Option<String>,
    /// What was done about it: "skip", "error", "backoff", "rollback", or "none" for a spike that was only noted.
    pub action: Option<&'static str>,
    /// In words.
    pub text: String,
    /// The data of the step, where the log tells.
    pub data: Option<DataRange>,
    /// Commands that show that data.
    pub commands: Vec<String>,
}

/// Everything that went wrong, in the order of the log.
pub fn incidents(run: &Run) -> Vec<Incident> {
    let folder = data_folder(run);
    run.log.events.iter().filter_map(|event| incident(event, run, &folder)).collect()
}

fn incident(event: &Event, run: &Run, folder: &str) -> Option<Incident> {
    let plain = |step, kind, text| Incident {
        step,
        kind,
        class: None,
        parameter: None,
        action: None,
        text,
        data: None,
        commands: Vec::new(),
    };
    let spike = |loss: f64, z: f64| {
        format!("loss spike to {}, {} standard deviations above the losses before", spell(loss), spell(z))
    };
    let with = |data: &Option<DataRange>, incident: Incident| Incident {
        data: data.clone(),
        commands: data.as_ref().map_or_else(Vec::new, |data| commands(data, run, folder)),
        ..incident
    };
    Some(match event {
        Event::Nonfinite(e) => {
            let by = e.parameter.as_ref().map_or(String::new(), |name| format!(", first in {name}"));
            let action = match e.action {
                Action::Skip => "skip",
                Action::Error => "error",
                Action::Backoff => "backoff",
            };
            let class = e.class.name();
            let text = format!("{}{by}; action: {action}", class.replace('_', " "));
            let incident = plain(e.step, "nonfinite", text);
            let (class, action) = (Some(class), Some(action));
            with(&e.data, Incident { class, parameter: e.parameter.clone(), action, ..incident })
        }
        Event::Spike(e) => {
            let incident = plain(e.step, "spike", spike(e.loss, e.z_score));
            with(&e.data, Incident { action: Some("none"), ..incident })
        }
        Event::Rollback(e) => {
            let text = format!(
                "{}; went back to the checkpoint of step {} and left out {} sequences",
                spike(e.loss, e.z_score),
                e.step,
                e.data.sequences
            );
            let incident = plain(e.from, "rollback", text);
            with(&Some(e.data.clone()), Incident { action: Some("rollback"), ..incident })
        }
        Event::Resume(e) => plain(e.step, "resume", "training went on from here".into()),
        _ => return None,
    })
}

/// Four digits are enough for a sentence.
fn spell(value: f64) -> String {
    if value.is_finite() && value.abs() < 1e6 { format!("{value:.4}") } else { number_to_string(value) }
}

/// What `taper data inspect` is to be told of the shards that a run reads (those its config names, else those it made of
/// text) and of the tokenizer that made them.
fn data_folder(run: &Run) -> String {
    let config = run.config.as_deref().and_then(|text| text.parse::<toml::Table>().ok()).unwrap_or_default();
    let text = |section: &str, key: &str| config.get(section)?.get(key)?.as_str().map(str::to_owned);
    let own = |folder: &str| run.path.join(folder).display().to_string();
    let shards = text("data", "shards").unwrap_or_else(|| own("data/tokens"));
    let tokenizer = match text("tokenizer", "kind").as_deref() {
        Some(name @ ("gpt2" | "bytes")) => Some(name.to_owned()),
        Some("file") => text("tokenizer", "path"),
        Some(_) => Some(own("data/tokenizer")),
        // The default of the config.
        None => text("tokenizer", "path").or_else(|| run.config.is_some().then(|| "gpt2".to_owned())),
    };
    let tokenizer = tokenizer.map_or(String::new(), |name| format!(" --tokenizer {}", quoted(&name)));
    quoted(&shards) + &tokenizer
}

fn commands(data: &DataRange, run: &Run, folder: &str) -> Vec<String> {
    let path = quoted(&run.path.display().to_string());
    let all = format!("taper data inspect {path} --sequence {} --count {}", data.first_sequence, data.sequences);
    let single = |at: &u64| format!("taper data inspect {folder} --at {at} --tokens {}", data.context_length);
    [all].into_iter().chain(data.positions.iter().map(single)).collect()
}

/// A word of a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}
