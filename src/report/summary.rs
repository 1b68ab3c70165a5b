//! The numbers of a run in short: what a person asks first, and what `taper report --json` prints.

use super::figure::median;
use crate::events::{Class, Event, EventLog, Reason};
use serde::Serialize;

/// A loss and where it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LossAt {
    /// The optimizer step.
    pub step: u64,
    /// Nats per token; a string where it is not finite.
    #[serde(with = "crate::events::number")]
    pub loss: f64,
}

/// How many steps had gradients of each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassCounts {
    /// Finite and within the clip norm.
    pub finite: u64,
    /// Scaled down to the clip norm.
    pub clipped: u64,
    /// Finite elements with an infinite norm.
    pub overflow: u64,
    /// Elements that are not finite.
    pub nonfinite: u64,
    /// A loss that is not finite.
    pub loss_nonfinite: u64,
    /// fp16: updates left out while the loss scale was halved.
    pub backoff: u64,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// All planned steps are made.
    Done,
    /// Stopped by a signal, its state saved.
    Stopped,
    /// Stopped by an error.
    Failed,
    /// Still writing, or killed without a word: a log cannot tell.
    Unfinished,
}

/// The numbers of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How the run stands.
    pub state: State,
    /// The error it stopped with.
    pub message: Option<String>,
    /// The last optimizer step.
    pub steps: u64,
    /// Tokens consumed until then.
    pub tokens: u64,
    /// Trained parameters, where the log says.
    pub parameters: Option<u64>,
    /// The training loss of the first step.
    pub first_train_loss: Option<LossAt>,
    /// The training loss of the last step.
    pub last_train_loss: Option<LossAt>,
    /// The split that the validation losses are of: "val" if it was measured, else the first that was.
    pub split: Option<String>,
    /// The first validation loss.
    pub first_val_loss: Option<LossAt>,
    /// The last validation loss.
    pub last_val_loss: Option<LossAt>,
    /// The smallest finite validation loss; the earliest of equals.
    pub best_val_loss: Option<LossAt>,
    /// Median over the steps, in tokens per second.
    pub median_tokens_per_s: Option<f64>,
    /// Median over the steps, from 0 to 1.
    pub median_mfu: Option<f64>,
    /// Sum of the step times in seconds.
    pub training_s: f64,
    /// Steps by class of their gradients.
    pub classes: ClassCounts,
    /// Jumps of the loss.
    pub spikes: u64,
    /// How often training went back to a checkpoint after a spike.
    pub rollbacks: u64,
    /// How often training went on after a stop.
    pub resumes: u64,
}

/// The names of the splits, in the order in which they first appear, "val" before all others.
pub(super) fn splits(log: &EventLog) -> Vec<String> {
    let mut splits: Vec<String> = Vec::new();
    for eval in log.evals() {
        if !splits.contains(&eval.split) {
            splits.push(eval.split.clone());
        }
    }
    splits.sort_by_key(|split| split != "val"); // stable
    splits
}

/// Sums up an event log.
pub fn summary(log: &EventLog) -> Summary {
    let mut classes = ClassCounts::default();
    let mut training_ms = 0.0;
    for step in log.steps() {
        *match step.class {
            Class::Finite => &mut classes.finite,
            Class::Clipped => &mut classes.clipped,
            Class::Overflow => &mut classes.overflow,
            Class::Nonfinite => &mut classes.nonfinite,
            Class::LossNonfinite => &mut classes.loss_nonfinite,
            Class::Backoff => &mut classes.backoff,
        } += 1;
        training_ms += if step.step_ms.is_finite() { step.step_ms } else { 0.0 };
    }
    let split = splits(log).into_iter().next();
    let evals = || log.evals().filter(|e| Some(&e.split) == split.as_ref());
    let val = |e: &crate::events::Eval| LossAt { step: e.step, loss: e.loss };
    let train = |e: &crate::events::Step| LossAt { step: e.step, loss: e.loss };
    let best = evals().filter(|e| e.loss.is_finite()).min_by(|a, b| a.loss.total_cmp(&b.loss));
    let end = log.end();
    Summary {
        state: match end.map(|end| end.reason) {
            Some(Reason::Done) => State::Done,
            Some(Reason::Signal) => State::Stopped,
            Some(Reason::Error) => State::Failed,
            None => State::Unfinished,
        },
        message: end.and_then(|end| end.message.clone()),
        steps: log.steps().map(|e| e.step).max().unwrap_or(0),
        tokens: log.events.iter().fold(0, |most, event| match event {
            Event::Step(e) => most.max(e.tokens),
            Event::Eval(e) => most.max(e.tokens),
            _ => most,
        }),
        parameters: log.start().map(|start| start.parameters).filter(|&n| n > 0),
        first_train_loss: log.steps().next().map(train),
        last_train_loss: log.steps().last().map(train),
        first_val_loss: evals().next().map(val),
        last_val_loss: evals().last().map(val),
        best_val_loss: best.map(val),
        split,
        median_tokens_per_s: median(log.steps().map(|e| e.tokens_per_s)),
        median_mfu: median(log.steps().filter_map(|e| e.mfu)),
        training_s: training_ms / 1e3,
        classes,
        spikes: log.spikes().count() as u64,
        rollbacks: log.rollbacks().count() as u64,
        resumes: log.resumes().count() as u64,
    }
}

impl Summary {
    /// The summary as rows of a name and a value, for people; what is not known is left out.
    pub fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: Option<String>| rows.extend(value.map(|value| (name.to_owned(), value)));
        let loss_at = |at: LossAt| format!("{:.4} at step {}", at.loss, at.step);
        let state = match self.state {
            State::Done => "done",
            State::Stopped => "stopped by a signal, its state saved",
            State::Failed => "stopped by an error",
            State::Unfinished => "not finished (still training, or killed)",
        };
        row("state", Some(self.message.as_ref().map_or(state.into(), |message| format!("{state}: {message}"))));
        row("parameters", self.parameters.map(|n| n.to_string()));
        row("optimizer steps", Some(self.steps.to_string()));
        row("training tokens", Some(self.tokens.to_string()));
        let val = |what: &str| format!("{what} {} loss", self.split.as_deref().map_or("val", |s| s));
        row(&val("first"), self.first_val_loss.map(loss_at));
        row(&val("last"), self.last_val_loss.map(loss_at));
        row(&val("best"), self.best_val_loss.map(loss_at));
        row("first training loss", self.first_train_loss.map(loss_at));
        row("last training loss", self.last_train_loss.map(loss_at));
        row("median throughput", self.median_tokens_per_s.map(|v| format!("{v:.0} tokens per second")));
        row("median MFU", self.median_mfu.map(|v| format!("{:.1}%", 100.0 * v)));
        row("time in steps", (self.training_s > 0.0).then(|| duration(self.training_s)));
        let c = &self.classes;
        let counts = [
            (c.finite, "within the clip norm"),
            (c.clipped, "clipped"),
            (c.overflow, "norm overflowed"),
            (c.nonfinite, "gradient not finite"),
            (c.loss_nonfinite, "loss not finite"),
        ];
        let counts: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect();
        row("steps by gradient", (!counts.is_empty()).then(|| counts.join(", ")));
        row("loss spikes", (self.spikes > 0).then(|| self.spikes.to_string()));
        let times = |count: u64| match count {
            0 => None,
            1 => Some("once".to_owned()),
            count => Some(format!("{count} times")),
        };
        row("rolled back", times(self.rollbacks));
        row("resumed", times(self.resumes));
        rows
    }
}

/// `42.0 s`, `3 min 20 s`, `5 h 03 min`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}
