//! The `[push]` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::setting::Interval;

/// Pushing to the Hugging Face Hub during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PushConfig {
    /// Steps between two pushes.
    pub every: Interval,
}

impl Default for PushConfig {
    fn default() -> Self {
        PushConfig { every: Interval::Off }
    }
}
