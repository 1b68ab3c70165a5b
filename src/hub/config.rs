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
    /// The licence of the weights, as the Hub spells it (`mit`, `apache-2.0`); it stands in the model card.
    #[schemars(extend("x-default" = "not set"))]
    pub license: Option<String>,
    /// A template for the model card: Markdown with placeholders such as `{{training}}`.
    #[schemars(extend("x-default" = "not set"))]
    pub card_template: Option<String>,
    /// What an hour of the hardware costs; the model card then tells the cost.
    #[schemars(extend("x-default" = "not set"))]
    pub price_per_hour: Option<f64>,
    /// The currency of that price.
    #[schemars(extend("x-default" = "`USD`"))]
    pub currency: Option<String>,
    /// The power that training draws, in watts, for the estimate of its energy.
    #[schemars(extend("x-default" = "10 for each thread of a CPU"))]
    pub watts: Option<f64>,
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
    /// Checks that there is a repository to push to, and the numbers of the card.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        for (key, value) in [("push.price_per_hour", self.price_per_hour), ("push.watts", self.watts)] {
            if let Some(value) = value.filter(|value| !value.is_finite() || *value < 0.0) {
                return Err(Problem::expected(key, value.to_string(), "a number of at least 0"));
            }
        }
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
