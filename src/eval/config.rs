//! The `[eval]` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::setting::{Interval, Problem, count, one_or_many, one_or_many_schema};

/// Validation during training. The validation loss is measured at step 0 and after the last step in any case, where there is
/// validation data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Steps between two measurements of the validation loss.
    pub every: Interval,
    /// How many tokens of the validation split are measured, at most; always the first ones.
    #[schemars(extend("x-default" = "the whole split"))]
    pub max_tokens: Option<u64>,
    /// Sequences that pass through the model at once.
    #[schemars(extend("x-default" = "`train.micro_batch`"))]
    pub batch: Option<usize>,
    /// Benchmarks to run with each measurement.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(schema_with = "one_or_many_schema")]
    pub tasks: Vec<String>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        EvalConfig { every: Interval::Steps(250), max_tokens: None, batch: None, tasks: Vec::new() }
    }
}

impl EvalConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        if let Some(tokens) = self.max_tokens.filter(|tokens| !(2..=1 << 53).contains(tokens)) {
            let expected =
                "a whole number from 2 (one prediction) to 2^53; without the key the whole split is measured";
            return Err(Problem::expected("eval.max_tokens", tokens, expected));
        }
        self.batch.map_or(Ok(()), |batch| count("eval.batch", batch as u64))
    }
}
