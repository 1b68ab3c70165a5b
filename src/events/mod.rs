//! The typed, append-only record of a run: `events.jsonl`, one JSON object a line, told apart by the field "event".
//!
//! It is the contract between training, which writes, and everything that reads: reports, dashboards, other people's
//! scripts. The one idea: *a line is a fact that is never changed*. A run that is resumed does not erase what it did
//! beyond the checkpoint it continues from; it appends `resume {step}`, and readers drop the earlier records beyond
//! that step ([`EventLog`] does); `rollback {step}` says the same without a restart. A run that is killed leaves at
//! most one torn line, the last, which readers pass over and
//! [`EventWriter::append_to`] cuts off.
//!
//! Unusual: JSON has no NaN and no infinities, and those are the very numbers one looks for in a log, so they are written
//! as the strings "nan", "inf" and "-inf". Finite numbers are written with as many digits as bring back the same bits.
//!
//! Identical runs write identical lines but for [`TIMING_FIELDS`]. Readers ignore fields and events that they do not
//! know, so that a newer log can be read by an older `taper`.

mod log;
pub(crate) mod number;
mod tail;
mod writer;

pub use log::EventLog;
pub use number::number_to_string;
pub use tail::EventTail;
pub use writer::EventWriter;

use serde::{Deserialize, Serialize};

/// The fields that may differ between two identical runs: times, and what is computed from times.
pub const TIMING_FIELDS: [&str; 8] =
    ["time", "elapsed_s", "step_ms", "tokens_per_s", "mfu", "slowest", "slowest_ms", "fastest_ms"];

/// One line of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A process began to train.
    Start(Box<Start>),
    /// An optimizer step was made (or skipped, see its class).
    Step(Step),
    /// A loss was measured over a held-out split.
    Eval(Eval),
    /// A benchmark was scored.
    Task(Task),
    /// Text was generated from the model as it stood.
    Sample(Sample),
    /// A step had a non-finite loss, gradient or gradient norm, and this was done about it.
    Nonfinite(Nonfinite),
    /// The loss jumped out of its recent range.
    Spike(Spike),
    /// A checkpoint was written, whole.
    Checkpoint(Checkpoint),
    /// Training continues from a checkpoint: earlier records beyond its step no longer count.
    Resume(Resume),
    /// After a spike, training went back to a checkpoint: earlier records beyond its step no longer count.
    Rollback(Rollback),
    /// How long the ranks of a run of several processes computed.
    Ranks(Ranks),
    /// A process stopped training, by its own will or by an error it could still report.
    End(End),
}

impl Event {
    /// The optimizer step that the event belongs to; `None` for `start`.
    pub fn step(&self) -> Option<u64> {
        match self {
            Event::Start(_) => None,
            Event::Step(e) => Some(e.step),
            Event::Eval(e) => Some(e.step),
            Event::Task(e) => Some(e.step),
            Event::Sample(e) => Some(e.step),
            Event::Nonfinite(e) => Some(e.step),
            Event::Spike(e) => Some(e.step),
            Event::Checkpoint(e) => Some(e.step),
            Event::Resume(e) => Some(e.step),
            Event::Rollback(e) => Some(e.step),
            Event::Ranks(e) => Some(e.step),
            Event::End(e) => Some(e.step),
        }
    }
}

/// What the process set out to do. Fields that a writer cannot know are left out of the line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Start {
    /// Version of `taper`.
    pub version: String,
    /// Hash of the resolved config, in hexadecimal.
    pub config_hash: String,
    /// Number of trained parameters.
    pub parameters: u64,
    /// Tokens that one optimizer step consumes.
    pub tokens_per_step: u64,
    /// The last optimizer step that is planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// The gradient norm above which gradients are scaled down (`stability.clip_norm`).
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Floating-point operations for one trained token, forward and backward.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub flops_per_token: Option<f64>,
    /// Bytes of memory on the device that the run needs, as planned or measured before the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What it runs on, in words ("CPU, 16 threads", "NVIDIA H200").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Seconds since 1970-01-01 UTC (a timing).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
}

/// One optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The step, counted from 1.
    pub step: u64,
    /// Tokens consumed since the start of the run, this step included.
    pub tokens: u64,
    /// Mean loss over the tokens of the global batch before the update, in nats per token.
    #[serde(with = "number")]
    pub loss: f64,
    /// Learning rate of the update.
    #[serde(with = "number")]
    pub lr: f64,
    /// Global L2 norm of the gradients before clipping.
    #[serde(with = "number")]
    pub grad_norm: f64,
    /// The same after clipping.
    #[serde(with = "number")]
    pub grad_norm_clipped: f64,
    /// What the gradients were like.
    pub class: Class,
    /// Wall time of the step in milliseconds (a timing).
    #[serde(with = "number", default = "unknown")]
    pub step_ms: f64,
    /// Tokens consumed per second of wall time (a timing).
    #[serde(with = "number", default = "unknown")]
    pub tokens_per_s: f64,
    /// Model FLOPs utilisation, the achieved share of the hardware's peak, from 0 to 1; `None` (null in the file) where
    /// the peak is not known (a timing).
    #[serde(with = "number::option", default)]
    pub mfu: Option<f64>,
}

/// The value of a timing that an older log does not have.
fn unknown() -> f64 {
    f64::NAN
}

/// What the gradients of a step were like. Exactly one holds for each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Finite, with a norm within the clip norm.
    Finite,
    /// Finite, with a norm above the clip norm: scaled down.
    Clipped,
    /// Every element finite, but their norm is not: the sum of squares overflowed.
    Overflow,
    /// At least one element is infinite or not a number.
    Nonfinite,
    /// The loss itself is infinite or not a number.
    LossNonfinite,
    /// fp16: the gradient overflowed because of the loss scale, which was halved; the update was left out.
    Backoff,
}

impl Class {
    /// All classes, in the order in which they are counted and shown.
    pub const ALL: [Class; 6] =
        [Class::Finite, Class::Clipped, Class::Overflow, Class::Nonfinite, Class::LossNonfinite, Class::Backoff];

    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Class::Finite => "finite",
            Class::Clipped => "clipped",
            Class::Overflow => "overflow",
            Class::Nonfinite => "nonfinite",
            Class::LossNonfinite => "loss_nonfinite",
            Class::Backoff => "backoff",
        }
    }
}

/// A loss over a held-out split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// The optimizer step after which it was measured; 0 is the untrained model.
    pub step: u64,
    /// Tokens consumed in training until then.
    pub tokens: u64,
    /// The split: "val" for the held-out part of the training data.
    pub split: String,
    /// Mean loss in nats per token.
    #[serde(with = "number")]
    pub loss: f64,
    /// Standard error of that mean, over windows, in nats; absent where there was one window, and in older logs.
    #[serde(with = "number::option", default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
}

/// The scores of a benchmark (docs/eval.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The optimizer step after which it was scored; 0 is the untrained model.
    pub step: u64,
    /// Tokens consumed in training until then.
    pub tokens: u64,
    /// The task: "hellaswag", "lambada", "multiple-choice".
    pub task: String,
    /// The file of its examples.
    pub data: String,
    /// How many examples were scored.
    pub examples: u64,
    /// Its numbers.
    pub metrics: Vec<TaskMetric>,
}

impl Task {
    /// The scores in a line, for people: `acc 0.2500, acc_norm 0.3000`.
    pub fn in_words(&self) -> String {
        let words: Vec<String> = self.metrics.iter().map(|m| format!("{} {:.4}", m.name, m.value)).collect();
        words.join(", ")
    }
}

/// One number of a benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskMetric {
    /// "acc", "acc_norm", "acc_norm_tokens", "perplexity".
    pub name: String,
    /// Its value.
    #[serde(with = "number")]
    pub value: f64,
    /// Its standard error over examples; absent where there was one example.
    #[serde(with = "number::option", default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
}

/// Text generated during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The optimizer step after which it was generated.
    pub step: u64,
    /// What the model was given.
    pub prompt: String,
    /// What the model wrote after it.
    pub text: String,
}

/// What was done about a step that was not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The update was left out; data, step and schedule continue.
    Skip,
    /// Training stopped.
    Error,
    /// The loss scale was lowered (fp16); not counted as a non-finite step.
    Backoff,
}

/// A step with a non-finite loss, gradient or norm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nonfinite {
    /// The step.
    pub step: u64,
    /// Which of the classes.
    pub class: Class,
    /// The first parameter, in arena order, with a non-finite gradient; `None` where no single one is to blame.
    #[serde(default)]
    pub parameter: Option<String>,
    /// What was done.
    pub action: Action,
    /// The data of the step; older logs do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataRange>,
}

/// Which training data a step or several consumed. Sequences are numbered over the whole run in the order of training
/// (`taper data inspect RUN --sequence N` shows one); positions are tokens of the training split, counted from 0
/// (`taper data inspect DIR --at POSITION`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRange {
    /// The number of the first sequence.
    pub first_sequence: u64,
    /// How many sequences.
    pub sequences: u64,
    /// Tokens of a sequence.
    pub context_length: u64,
    /// Where the first sequences begin: at most [`DataRange::LISTED`] of them, since shuffling scatters them.
    pub positions: Vec<u64>,
}

impl DataRange {
    /// Positions that are listed at most.
    pub const LISTED: usize = 8;
}

/// A jump of the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spike {
    /// The step.
    pub step: u64,
    /// Its loss, in nats per token.
    #[serde(with = "number")]
    pub loss: f64,
    /// How many standard deviations it lies above the mean of the recent losses.
    #[serde(with = "number")]
    pub z_score: f64,
    /// The data of the step; older logs do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataRange>,
}

/// A checkpoint that is whole on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The step whose state it holds.
    pub step: u64,
    /// Its folder, relative to the run folder.
    pub path: String,
    /// The validation loss measured at that step, if one was.
    #[serde(with = "number::option", default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
}

/// Training continues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    /// The step of the state that it continues from; 0 is from the beginning.
    pub step: u64,
    /// Seconds since 1970-01-01 UTC (a timing).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
}

/// Training went back to a checkpoint after a spike, and continues with later data (`stability.spike = "rollback"`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollback {
    /// The step whose state it goes back to.
    pub step: u64,
    /// The step at which the loss spiked.
    pub from: u64,
    /// Its loss, in nats per token.
    #[serde(with = "number")]
    pub loss: f64,
    /// As in [`Spike`].
    #[serde(with = "number")]
    pub z_score: f64,
    /// The data that is left out: all that was read since the checkpoint, the spiking step's included.
    pub data: DataRange,
}

/// The slowest and the fastest of the ranks, every `train.log_every` steps: a rank that is always behind has a slower
/// machine, or shares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranks {
    /// The step at which it was looked.
    pub step: u64,
    /// How many ranks there are.
    pub ranks: u64,
    /// The rank that computed longest in the step before, waiting for others not counted (a timing).
    pub slowest: u64,
    /// Its time in milliseconds (a timing).
    #[serde(with = "number")]
    pub slowest_ms: f64,
    /// The fastest rank's time in milliseconds (a timing).
    #[serde(with = "number")]
    pub fastest_ms: f64,
    /// Whether gradients are sent while the backward pass runs.
    #[serde(default)]
    pub overlap: bool,
}

/// Why a process stopped training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// All planned steps are made.
    Done,
    /// A signal asked for it, and the state was saved.
    Signal,
    /// Something failed; see the message.
    Error,
}

/// A process stopped training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// The last finished optimizer step.
    pub step: u64,
    /// Why.
    pub reason: Reason,
    /// The error, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Wall time of this process in seconds (a timing).
    #[serde(with = "number::option", default, skip_serializing_if = "Option::is_none")]
    pub elapsed_s: Option<f64>,
}

/// A line of the log without its [`TIMING_FIELDS`]: what must be equal in two identical runs. `None` if the line is not
/// a JSON object.
pub fn without_timings(line: &str) -> Option<String> {
    let mut object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).ok()?;
    object.retain(|key, _| !TIMING_FIELDS.contains(&key.as_str()));
    serde_json::to_string(&object).ok()
}
