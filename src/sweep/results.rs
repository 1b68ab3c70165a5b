//! What the run folders of a sweep say: finished or not, the final validation loss, the time it took.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::config::{JOURNAL, Sweep};
use super::jobs::{PlannedRun, jobs};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events::{EventLog, Reason};

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// All steps are made.
    Done,
    /// It ended with an error.
    Failed,
    /// It was stopped on the way and can continue.
    Partial,
    /// Nothing is there yet.
    Pending,
}

/// A run and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The run.
    pub job: PlannedRun,
    /// How it stands.
    pub state: State,
    /// What went wrong, where it failed.
    pub message: Option<String>,
    /// The share of its steps that is made.
    pub progress: f64,
    /// The final validation loss; may be infinite or not a number.
    pub loss: Option<f64>,
    /// The validation loss of the untrained model.
    pub initial: Option<f64>,
    /// The split that the losses are of.
    pub split: Option<String>,
    /// Trained parameters.
    pub parameters: Option<f64>,
    /// Operations for a trained token.
    pub flops_per_token: Option<f64>,
    /// Trained tokens.
    pub tokens: f64,
    /// Wall time of the run in seconds, over all its processes; `None` where one was killed and could not say.
    pub seconds: Option<f64>,
}

impl Outcome {
    /// Training operations that were made.
    pub fn flops(&self) -> Option<f64> {
        self.flops_per_token.map(|per_token| per_token * self.tokens).filter(|flops| *flops > 0.0)
    }

    /// Whether training went wrong: it ended with a loss that is not finite, or with more than the untrained model had, or
    /// it stopped because of what was not finite.
    pub fn diverged(&self) -> bool {
        let stopped = self.state == State::Failed && self.message.as_ref().is_some_and(|m| m.contains("finite"));
        let bad = |loss: f64| !loss.is_finite() || self.initial.is_some_and(|initial| loss > initial);
        stopped || (self.state == State::Done && self.loss.is_some_and(bad))
    }

    /// The final loss of a run that is finished.
    pub fn final_loss(&self) -> Option<f64> {
        self.loss.filter(|_| self.state == State::Done)
    }
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The run, as `ARM/seed-N`.
    pub job: String,
    /// How the process ended: "done", "failed", "stopped".
    pub ended: String,
    /// Its exit code; absent where a signal killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The error, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Wall time of the process.
    pub seconds: f64,
}

/// Adds a line to the journal.
///
/// # Errors
/// If it cannot be written.
pub fn record(out: &Path, entry: &Entry) -> Result<()> {
    let path = out.join(JOURNAL);
    let line = serde_json::to_string(entry).map_err(|error| Error::data(&path, error.to_string()))?;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).map_err(Error::io("write", &path))
}

/// The journal's entries by run; lines that a kill has torn are passed over.
fn journal(out: &Path) -> BTreeMap<String, Vec<Entry>> {
    let mut entries: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    let text = std::fs::read(out.join(JOURNAL)).unwrap_or_default();
    for entry in String::from_utf8_lossy(&text).lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok()) {
        entries.entry(entry.job.clone()).or_default().push(entry);
    }
    entries
}

/// Reads all runs of a sweep, in the order of [`jobs`].
///
/// # Errors
/// If a run folder belongs to another config than the sweep now says, or a log is damaged.
pub fn outcomes(sweep: &Sweep) -> Result<Vec<Outcome>> {
    let journal = journal(&sweep.out);
    let configs: Vec<Config> = sweep.arms.iter().map(|arm| sweep.resolve(arm)).collect::<Result<_>>()?;
    jobs(sweep)
        .into_iter()
        .map(|job| {
            check_same(sweep, &job)?;
            let entries = journal.get(&job.name).map_or(&[][..], |entries| &entries[..]);
            let planned = configs[job.arm].train.max_steps;
            outcome(job, entries, planned)
        })
        .collect()
}

/// Reads one run.
fn outcome(job: PlannedRun, entries: &[Entry], planned: Option<u64>) -> Result<Outcome> {
    let events = job.folder.join(crate::run::folder::EVENTS);
    let log = if events.is_file() { EventLog::read(&events)? } else { EventLog::default() };
    let last = entries.last();
    let failed = last.filter(|entry| entry.ended == "failed");
    let done = log.end().is_some_and(|end| end.reason == Reason::Done);
    let state = match (done, failed, log.events.is_empty()) {
        (true, _, _) => State::Done,
        (false, Some(_), _) => State::Failed,
        (false, None, false) => State::Partial,
        (false, None, true) => State::Pending,
    };
    let split = log.evals().map(|e| &e.split).min_by_key(|split| *split != "val").cloned();
    let evals = || log.evals().filter(|e| Some(&e.split) == split.as_ref());
    let start = log.start();
    let steps = log.steps().last().map_or(0, |step| step.step);
    let planned = start.and_then(|start| start.max_steps).or(planned);
    Ok(Outcome {
        state,
        message: failed.and_then(|entry| entry.message.clone()),
        progress: planned.map_or(0.0, |planned| steps as f64 / planned.max(1) as f64).min(1.0),
        loss: evals().last().map(|e| e.loss),
        initial: evals().next().filter(|e| e.step == 0).map(|e| e.loss),
        parameters: start.map(|start| start.parameters as f64).filter(|n| *n > 0.0),
        flops_per_token: start.and_then(|start| start.flops_per_token),
        tokens: log.steps().last().map_or(0.0, |step| step.tokens as f64),
        // A process that was killed wrote no entry: then the time is not known.
        seconds: (log.resumes().count() < entries.len()).then(|| entries.iter().map(|entry| entry.seconds).sum()),
        split,
        job,
    })
}

/// Refuses to count a run that was made with another config: its folder says what it was.
fn check_same(sweep: &Sweep, job: &PlannedRun) -> Result<()> {
    let path = job.folder.join("config.toml");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    let made = Config::from_str(&text, &path.display().to_string(), &[])?;
    let meant = Config::from_str(&sweep.base, &sweep.base_origin, &job.overrides)?;
    // What a run resolves by itself (the vocabulary, an automatic micro-batch) is not set in the sweep.
    let resolved = |key: &str, meant: &Option<String>| {
        meant.is_none() || (key == "train.micro_batch" && meant.as_deref() == Some("\"auto\""))
    };
    let other = made.differences(&meant).into_iter().find(|d| d.determines && !resolved(&d.key, &d.after));
    match other {
        None => Ok(()),
        Some(d) => Err(Error::usage(format!(
            "{} was trained with {} = {}, and the sweep now says {}; give the arm another name, choose another folder with \
             --out, or remove that run",
            job.folder.display(),
            d.key,
            d.before.unwrap_or("not set".into()),
            d.after.unwrap_or("not set".into())
        ))),
    }
}
