//! The `[push]` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::repo::Repo;
use crate::setting::Problem;

/// Pushing to the Hugging Face Hub during training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PushConfig {
    /// When to push. It happens in the background: it neither stalls nor fails the run.
    pub every: PushEvery,
    /// The repository on the Hub, as `OWNER/NAME`; made if it is not there.
    pub repo: Option<String>,
    /// Whether a repository that has to be made is made private.
    pub private: bool,
}

/// When a run is pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PushEvery {
    /// Never.
    #[default]
    Off,
    /// Every checkpoint, as far as the connection keeps up: only the newest waits.
    Checkpoint,
}

impl PushConfig {
    /// Checks that there is a repository to push to.
    ///
    /// # Errors
    /// A problem with `push.repo`.
    pub fn validate(&self) -> Result<(), Problem> {
        match &self.repo {
            Some(repo) => match Repo::model(repo) {
                Ok(_) => Ok(()),
                Err(error) => Err(Problem::new("push.repo", format!("push.repo: {error}"))),
            },
            None if self.every != PushEvery::Off => Err(Problem::new(
                "push.every",
                "push.every = \"checkpoint\" needs push.repo = \"OWNER/NAME\", the repository to push to",
            )),
            None => Ok(()),
        }
    }
}
