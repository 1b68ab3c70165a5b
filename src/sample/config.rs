//! The `[sample]` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::setting::{Interval, MAX, Problem, count, not_negative, one_or_many, one_or_many_schema};

/// Text that the model writes during training, so that one can read how it is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SampleConfig {
    /// Steps between two samplings; with a number, there is one after the last step as well.
    pub every: Interval,
    /// What to continue: one sample for each. An empty prompt starts a new document.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(schema_with = "one_or_many_schema")]
    pub prompt: Vec<String>,
    /// How many tokens to write, at most.
    pub max_new_tokens: usize,
    /// Logits are divided by this; 0 always takes the most likely token.
    pub temperature: f64,
    /// Only this many of the most likely tokens are considered.
    #[schemars(extend("x-default" = "not set"))]
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together reach this probability are considered (nucleus sampling, Holtzman et al.
    /// 2020).
    #[schemars(extend("x-default" = "not set"))]
    pub top_p: Option<f64>,
}

impl Default for SampleConfig {
    fn default() -> Self {
        SampleConfig {
            every: Interval::Steps(500),
            prompt: vec![String::new()],
            max_new_tokens: 100,
            temperature: 0.8,
            top_k: None,
            top_p: None,
        }
    }
}

impl SampleConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        if self.prompt.is_empty() {
            let message = "sample.prompt is an empty list; write at least one prompt, or sample.every = \"off\"";
            return Err(Problem::new("sample.prompt", message));
        }
        count("sample.max_new_tokens", self.max_new_tokens as u64)?;
        not_negative("sample.temperature", self.temperature)?;
        if let Some(top_k) = self.top_k.filter(|&k| k == 0 || k as u64 > MAX) {
            let expected = "a whole number of at least 1; without the key all tokens are considered";
            return Err(Problem::expected("sample.top_k", top_k, expected));
        }
        if let Some(top_p) = self.top_p.filter(|&p| !(p > 0.0 && p <= 1.0)) {
            return Err(Problem::expected("sample.top_p", top_p, "a number above 0 and at most 1"));
        }
        Ok(())
    }
}
