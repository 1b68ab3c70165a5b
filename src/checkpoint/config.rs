//! The `[checkpoint]` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::setting::{Interval, Problem, count};

/// When the run is saved and what is kept. A checkpoint is also written at the end and when a signal stops the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between two checkpoints.
    pub every: Interval,
    /// How many of the newest checkpoints are kept; the best one is kept besides.
    pub keep_last: usize,
    /// Checkpoints of steps that are a multiple of this are kept for good.
    #[schemars(extend("x-default" = "not set"))]
    pub keep_every: Option<u64>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { every: Interval::Steps(500), keep_last: 2, keep_every: None }
    }
}

impl CheckpointConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        count("checkpoint.keep_last", self.keep_last as u64)?;
        self.keep_every.map_or(Ok(()), |every| count("checkpoint.keep_every", every))
    }
}
