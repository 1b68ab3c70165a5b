//! The `[optimizer]` and `[schedule]` sections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::setting::{MAX, Problem, above_zero, below_one, not_negative};

/// Which optimizer updates the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    Adamw,
    /// SGD with momentum, for tests alone: see `rule/momentum.rs`.
    #[cfg(test)]
    Momentum,
}

/// How the parameters are updated. Weight decay acts on tensors of two or more dimensions, embeddings included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The optimizer.
    pub kind: OptimizerKind,
    /// The learning rate at its height: after warmup, before decay.
    pub lr: f64,
    /// Decay of the running mean of gradients (the first moment).
    pub beta1: f64,
    /// Decay of the running mean of squared gradients (the second moment).
    pub beta2: f64,
    /// Added to the root of the second moment, outside the root.
    pub eps: f64,
    /// Weight decay; a step shrinks a decayed tensor by the factor `1 - lr * weight_decay`.
    pub weight_decay: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig { kind: OptimizerKind::Adamw, lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }
    }
}

impl OptimizerConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        above_zero("optimizer.lr", self.lr)?;
        below_one("optimizer.beta1", self.beta1)?;
        below_one("optimizer.beta2", self.beta2)?;
        above_zero("optimizer.eps", self.eps)?;
        not_negative("optimizer.weight_decay", self.weight_decay)
    }
}

/// The shape of the learning rate over the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Half a cosine from `lr` down to the least rate (Loshchilov and Hutter 2017, without restarts).
    Cosine,
    /// Warmup, stable, decay: `lr` until the last part of the run, then a straight line down (Hu et al. 2024, MiniCPM;
    /// the linear form of Hägele et al. 2024).
    Wsd,
    /// A straight line from `lr` down to the least rate.
    Linear,
    /// `lr` throughout; `min_lr_ratio` is not read.
    Constant,
}

/// How the learning rate changes: a pure function of the step, so that nothing about it needs to be saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The shape after warmup.
    pub kind: ScheduleKind,
    /// Steps of linear warmup; step `s` (from 0) of them has the rate `lr * (s + 1) / (warmup_steps + 1)`.
    pub warmup_steps: u64,
    /// The least rate as a part of `lr`, reached at the end of the run.
    pub min_lr_ratio: f64,
    /// For `kind = "wsd"`: how many steps the decay at the end takes.
    #[schemars(extend("x-default" = "`decay_fraction` of the run"))]
    pub decay_steps: Option<u64>,
    /// For `kind = "wsd"`: the part of the run's steps that the decay at the end takes, where `decay_steps` does not say.
    #[schemars(extend("x-default" = "0.2, unless `decay_steps` is written"))]
    pub decay_fraction: Option<f64>,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        ScheduleConfig {
            kind: ScheduleKind::Cosine,
            warmup_steps: 0,
            min_lr_ratio: 0.1,
            decay_steps: None,
            decay_fraction: None,
        }
    }
}

impl ScheduleConfig {
    /// The part of the run that a `wsd` decay takes where nothing is written.
    pub const DECAY_FRACTION: f64 = 0.2;

    /// Checks the numbers. A warmup longer than the run is allowed: shortened trial runs are common.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        if self.warmup_steps > MAX {
            let expected = format!("a whole number from 0 to {MAX}");
            return Err(Problem::expected("schedule.warmup_steps", self.warmup_steps, &expected));
        }
        let unit = |key: &str, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(Problem::expected(key, value, "a number from 0 to 1")),
        };
        unit("schedule.min_lr_ratio", self.min_lr_ratio)?;
        if let Some(fraction) = self.decay_fraction {
            unit("schedule.decay_fraction", fraction)?;
            if self.decay_steps.is_some() {
                return Err(Problem::new(
                    "schedule.decay_fraction",
                    "schedule.decay_fraction and schedule.decay_steps say the same thing twice; keep one of them",
                ));
            }
        }
        Ok(())
    }

    /// How many steps the decay of a `wsd` run of `max_steps` takes.
    pub fn decay_length(&self, max_steps: u64) -> u64 {
        self.decay_steps.unwrap_or_else(|| {
            // A product below 2^53, rounded half away from zero: the same on every machine.
            (self.decay_fraction.unwrap_or(Self::DECAY_FRACTION) * max_steps as f64).round() as u64
        })
    }
}
