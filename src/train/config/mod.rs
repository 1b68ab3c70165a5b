//! The sections that describe the training loop itself: `[train] [stability] [precision] [dist]`, and `[run]` in its
//! own file.

mod run;

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::device::DType;
use crate::error::{Error, Result};
use crate::setting::{Limit, MAX, Problem, above_zero, count, not_negative};

pub use run::{DeviceChoice, RunConfig};

/// How many sequences one forward and backward pass holds: a whole number of at least 1, or `"auto"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "MicroBatchForm", into = "MicroBatchForm")]
pub enum MicroBatch {
    /// As many as fit in memory.
    Auto,
    /// So many.
    Sequences(usize),
}

/// How TOML writes a [`MicroBatch`].
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum MicroBatchForm {
    Sequences(usize),
    Word(AutoWord),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AutoWord {
    Auto,
}

impl From<MicroBatchForm> for MicroBatch {
    fn from(form: MicroBatchForm) -> Self {
        match form {
            MicroBatchForm::Sequences(sequences) => MicroBatch::Sequences(sequences),
            MicroBatchForm::Word(AutoWord::Auto) => MicroBatch::Auto,
        }
    }
}

impl From<MicroBatch> for MicroBatchForm {
    fn from(micro_batch: MicroBatch) -> Self {
        match micro_batch {
            MicroBatch::Sequences(sequences) => MicroBatchForm::Sequences(sequences),
            MicroBatch::Auto => MicroBatchForm::Word(AutoWord::Auto),
        }
    }
}

impl JsonSchema for MicroBatch {
    fn schema_name() -> Cow<'static, str> {
        "MicroBatch".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "x-expected": "a whole number of at least 1, or \"auto\"" })
    }
}

impl MicroBatch {
    /// The number of sequences, unless it is still to be found.
    pub fn sequences(self) -> Option<usize> {
        match self {
            MicroBatch::Sequences(sequences) => Some(sequences),
            MicroBatch::Auto => None,
        }
    }
}

/// How much is trained, and in what portions. Exactly one of `max_steps`, `max_tokens` and `epochs` says when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Sequences that pass through the model at once; divides `global_batch`. `"auto"` takes the largest that fits in
    /// memory; the number it finds is part of the run.
    pub micro_batch: MicroBatch,
    /// Sequences in one optimizer step; their gradients are accumulated over `global_batch / micro_batch` passes.
    #[schemars(extend("x-default" = "`micro_batch`, or 32 where that is `\"auto\"`"))]
    pub global_batch: Option<usize>,
    /// Optimizer steps in the run.
    #[schemars(extend("x-default" = "not set"))]
    pub max_steps: Option<u64>,
    /// Tokens in the run, at most: the whole steps that fit.
    #[schemars(extend("x-default" = "not set"))]
    pub max_tokens: Option<u64>,
    /// Passes over the training data, at least: rounded up to whole steps. Fractions are allowed.
    #[schemars(extend("x-default" = "not set"))]
    pub epochs: Option<f64>,
    /// Steps between two readings of the device's measurements (loss, gradient norm). Each step has its line in the event
    /// log in any case; a GPU is kept waiting less often with a larger number.
    pub log_every: u64,
    /// Whether blocks are computed again in the backward pass instead of kept: less memory, about a third more work, the
    /// same bits.
    pub recompute: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            micro_batch: MicroBatch::Auto,
            global_batch: None,
            max_steps: None,
            max_tokens: None,
            epochs: None,
            log_every: 10,
            recompute: false,
        }
    }
}

impl TrainConfig {
    /// Sequences in one optimizer step.
    pub fn global_batch(&self) -> usize {
        self.global_batch.or(self.micro_batch.sequences()).unwrap_or(32)
    }

    /// The number of optimizer steps in the run, from whichever key says so.
    ///
    /// `context_length` is the tokens of a sequence, `train_sequences` the sequences in one pass over the training data.
    ///
    /// # Errors
    /// `Usage`, where `max_tokens` or `epochs` come to less than one step, or to more than can be counted.
    pub fn steps(&self, context_length: usize, train_sequences: u64) -> Result<u64> {
        let global_batch = self.global_batch() as u64;
        let tokens_per_step = global_batch.saturating_mul(context_length as u64);
        if let Some(steps) = self.max_steps {
            return Ok(steps);
        }
        if let Some(tokens) = self.max_tokens {
            return match tokens.checked_div(tokens_per_step) {
                Some(steps @ 1..) => Ok(steps),
                _ => Err(Error::usage(format!(
                    "train.max_tokens = {tokens} is less than one step, which takes {tokens_per_step} tokens \
                     (train.global_batch = {global_batch} sequences of model.context_length = {context_length})"
                ))),
            };
        }
        let Some(epochs) = self.epochs else { return Err(missing_length().into()) };
        let steps = (epochs * train_sequences as f64 / global_batch as f64).ceil();
        if (1.0..=MAX as f64).contains(&steps) {
            return Ok(steps as u64);
        }
        Err(Error::usage(format!(
            "train.epochs = {epochs} over {train_sequences} sequences comes to {steps} steps; expected 1 to {MAX}"
        )))
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        if let Some(micro_batch) = self.micro_batch.sequences() {
            count("train.micro_batch", micro_batch as u64)?;
        }
        count("train.global_batch", self.global_batch() as u64)?;
        if let Some(micro_batch) = self.micro_batch.sequences()
            && !self.global_batch().is_multiple_of(micro_batch)
        {
            return Err(Problem::new(
                "train.micro_batch",
                format!(
                    "train.micro_batch = {micro_batch} does not divide train.global_batch = {}; a step is made of whole \
                     micro-batches",
                    self.global_batch()
                ),
            ));
        }
        let ends = [
            ("train.max_steps", self.max_steps.is_some()),
            ("train.max_tokens", self.max_tokens.is_some()),
            ("train.epochs", self.epochs.is_some()),
        ];
        let mut written = ends.iter().filter(|(_, written)| *written).map(|(key, _)| *key);
        match (written.next(), written.next()) {
            (None, _) => return Err(missing_length()),
            (Some(one), Some(other)) => {
                let message = format!("{one} and {other} both say when the run ends; keep one of them");
                return Err(Problem::new(other, message));
            }
            _ => {}
        }
        if let Some(steps) = self.max_steps {
            count("train.max_steps", steps)?;
        }
        if let Some(tokens) = self.max_tokens.filter(|tokens| !(1..=1 << 53).contains(tokens)) {
            return Err(Problem::expected("train.max_tokens", tokens, "a whole number from 1 to 2^53"));
        }
        if let Some(epochs) = self.epochs {
            above_zero("train.epochs", epochs)?;
        }
        count("train.log_every", self.log_every)
    }
}

fn missing_length() -> Problem {
    let message = "nothing says when the run ends; write train.max_steps, train.max_tokens or train.epochs";
    Problem::new("train.max_steps", message)
}

/// What happens at a step whose loss or gradients are not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Nonfinite {
    /// The update is left out: the step, its data and the schedule are spent, moments and Adam's step count stay.
    Skip,
    /// The run stops with an error, its state from before the step saved.
    Error,
}

/// What happens at a step whose loss stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Spike {
    /// It is noted in the event log, nothing else.
    Log,
    /// The run goes back to its last scheduled checkpoint and leaves out the data read since then.
    Rollback,
}

/// What keeps training from falling apart, and what is noted when it tries to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StabilityConfig {
    /// Gradients are scaled down so that their norm over all parameters is at most this (Pascanu et al. 2013).
    pub clip_norm: Limit,
    /// What to do at a step with a non-finite loss or gradient.
    pub nonfinite: Nonfinite,
    /// With `nonfinite = "skip"`: the run stops with an error after so many skipped steps in a row.
    pub max_consecutive_skips: u64,
    /// What to do at a loss spike: `"log"` notes it; `"rollback"` goes back to the last checkpoint of `checkpoint.every` (or
    /// the start) and continues with later data, leaving out what was read since then (Chowdhery et al. 2022, PaLM).
    pub spike: Spike,
    /// A spike is a loss that stands out from those of this many steps before it.
    pub spike_window: u64,
    /// By how many robust standard deviations (1.4826 times the median distance from the median) a loss must be above the
    /// window's median to be a spike.
    pub spike_threshold: Limit,
}

impl Default for StabilityConfig {
    fn default() -> Self {
        StabilityConfig {
            clip_norm: Limit::At(1.0),
            nonfinite: Nonfinite::Skip,
            max_consecutive_skips: 100,
            spike: Spike::Log,
            spike_window: 100,
            spike_threshold: Limit::At(6.0),
        }
    }
}

impl StabilityConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        self.clip_norm.validate("stability.clip_norm")?;
        count("stability.max_consecutive_skips", self.max_consecutive_skips)?;
        if !(2..=1_000_000).contains(&self.spike_window) {
            let expected = "a whole number from 2 to 1000000";
            return Err(Problem::expected("stability.spike_window", self.spike_window, expected));
        }
        self.spike_threshold.validate("stability.spike_threshold")
    }
}

/// The number format of matrix products and activations. Master weights and optimizer state are fp32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats throughout.
    Fp32,
    /// 32-bit floats whose products are rounded to 10 bits of mantissa (NVIDIA GPUs from Ampere on).
    Tf32,
    /// bfloat16: the range of fp32, 7 bits of mantissa.
    Bf16,
    /// IEEE half precision, with loss scaling.
    Fp16,
}

impl Precision {
    /// As the config writes it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "fp16",
        }
    }

    /// The dtype of activations and of the weights that products read.
    pub fn dtype(self) -> DType {
        match self {
            Precision::Fp32 | Precision::Tf32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::Fp16 => DType::F16,
        }
    }
}

/// The precision of the computation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrecisionConfig {
    /// The number format of matrix products and activations. The CPU computes in `"fp32"`, and in `"bf16"`, which is
    /// fast where it has AMX-BF16 or AVX512-BF16.
    #[schemars(extend("x-default" = "`\"bf16\"` on a GPU, `\"fp32\"` on the CPU"))]
    pub compute: Option<Precision>,
    /// A table of matrix product algorithms that `taper bench tune` measured on this kind of GPU. The run keeps a copy,
    /// which a resumed run reads. Without one cuBLASLt's first choice counts.
    #[schemars(extend("x-default" = "not set"))]
    pub matmul_table: Option<String>,
}

impl PrecisionConfig {
    /// The precision on a GPU, or on the CPU.
    ///
    /// # Errors
    /// If the CPU is asked for anything but fp32 and bf16.
    pub fn resolve(&self, gpu: bool) -> Result<Precision> {
        match (self.compute, gpu) {
            (Some(precision), true) => Ok(precision),
            (None, true) => Ok(Precision::Bf16),
            (None, false) => Ok(Precision::Fp32),
            (Some(precision @ (Precision::Fp32 | Precision::Bf16)), false) => Ok(precision),
            (Some(other), false) => Err(Error::usage(format!(
                "precision.compute = \"{}\" needs a GPU; the CPU computes in \"fp32\" and \"bf16\": take one of them, or \
                 --device cuda",
                other.name()
            ))),
        }
    }
}

/// How gradients of several devices are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// In a fixed order over the lanes, so that the number of devices does not change the bits.
    Ordered,
    /// In whatever order the engine finds fastest: the bits then depend on the number of devices.
    Fast,
}

/// The numbers in which devices send gradients to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Communication {
    /// As they are.
    Fp32,
    /// Rounded to bf16: half the bytes. The bits then depend on the number of devices.
    Bf16,
}

/// Training on several devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DistConfig {
    /// Into how many lanes the global batch is split; a power of two. The number of devices divides it.
    #[schemars(extend("x-default" = "the largest power of two up to 8 that divides the number of micro-batches"))]
    pub lanes: Option<usize>,
    /// How the lanes' gradients are summed.
    pub reduction: Reduction,
    /// Whether each device keeps only its part of the optimizer's state (ZeRO stage 1, Rajbhandari et al. 2020).
    pub shard_optimizer: bool,
    /// In which numbers gradients are sent.
    pub communication: Communication,
    /// MiB of neighbouring gradients that are sent as soon as they are complete, while the backward pass continues. 0 sends
    /// everything after it.
    pub bucket_mb: f64,
    /// Seconds that a device waits for another before the run is given up. The first step may take three times as long, an
    /// evaluation or a checkpoint twenty times.
    pub timeout: f64,
}

impl Default for DistConfig {
    fn default() -> Self {
        DistConfig {
            lanes: None,
            reduction: Reduction::Ordered,
            shard_optimizer: false,
            communication: Communication::Fp32,
            bucket_mb: 25.0,
            timeout: 100.0,
        }
    }
}

impl DistConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        if let Some(lanes) = self.lanes
            && !lanes.is_power_of_two()
        {
            return Err(Problem::expected("dist.lanes", lanes, "a power of two"));
        }
        not_negative("dist.bucket_mb", self.bucket_mb)?;
        above_zero("dist.timeout", self.timeout)
    }
}
