//! What a card tells: the facts, without a word of text around them.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Whether, and as what, `transformers` loads the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loading {
    /// It loads as it is.
    Transformers {
        /// The class: "GPT2LMHeadModel", "LlamaForCausalLM".
        class: String,
    },
    /// No class of `transformers` expresses the shape; `taper` loads it.
    TaperOnly {
        /// The options that cause it, as in the config: `mlp = "relu2"`.
        because: Vec<String>,
    },
}

/// A text that the model wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardSample {
    /// What it was given.
    pub prompt: String,
    /// What it wrote after that.
    pub text: String,
    /// How: "temperature 0.8, top-k 50, seed 1".
    pub settings: Option<String>,
}

/// The validation of the model that the folder holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CardEvaluation {
    /// What was measured on: "the last 5% of the training text".
    pub data: String,
    /// The same as the Hub names it, where it is there ("HuggingFaceFW/fineweb").
    pub dataset: Option<String>,
    /// Mean loss in nats per token. Perplexity is derived from it.
    pub loss: f64,
    /// Standard error of that mean, in nats. The table's interval is derived from it.
    pub standard_error: Option<f64>,
    /// Number of predicted tokens that it is the mean of.
    pub predictions: Option<u64>,
    /// Bits per byte of text, where the bytes are known.
    pub bits_per_byte: Option<f64>,
}

/// The result of a benchmark.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CardResult {
    /// The benchmark in words: "HellaSwag (validation, zero-shot)".
    pub benchmark: String,
    /// The data set as the Hub names it, where it is there ("Rowan/hellaswag").
    pub dataset: Option<String>,
    /// The metric: "accuracy".
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// Standard error of the value.
    pub standard_error: Option<f64>,
    /// Number of examples or tokens that it is the mean of.
    pub count: Option<u64>,
}

/// The power that training drew, for an estimate of its energy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CardPower {
    /// Watts, of all devices together.
    pub watts: f64,
    /// Where the number is from: "the board power limit of 1 x NVIDIA H200", "assumed for 2 CPU cores".
    pub basis: String,
}

/// What an hour of the hardware costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CardPrice {
    /// The price of an hour, of all devices together.
    pub per_hour: f64,
    /// The currency: "USD".
    pub currency: String,
}

/// Everything a card tells. Empty lists, empty strings and `None` are left out, with the sentence around them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CardFacts {
    /// The headline: the name of the run or of the repository.
    pub name: String,
    /// The licence of the weights, as the Hub spells it ("mit", "apache-2.0"); only the user can know it.
    pub license: Option<String>,
    /// Languages of the data as ISO codes ("en").
    pub languages: Vec<String>,
    /// Data sets by their id on the Hub ("HuggingFaceFW/fineweb").
    pub datasets: Vec<String>,
    /// The model on the Hub that training started from.
    pub base_model: Option<String>,
    /// Further tags, besides "taper".
    pub tags: Vec<String>,
    /// Whether, and as what, `transformers` loads the folder.
    pub loading: Loading,
    /// Whether tokenizer files lie in the folder.
    pub has_tokenizer: bool,
    /// OWNER/NAME on the Hub, where it is known; loading snippets then name it, else the folder itself.
    pub repository: Option<String>,
    /// Number of parameters (tied ones counted once).
    pub parameters: u64,
    /// The same without token and position embeddings.
    pub parameters_non_embedding: Option<u64>,
    /// Rows of the architecture table, name and value: ("layers", "12").
    pub architecture: Vec<(String, String)>,
    /// The tokenizer in words: "GPT-2 byte-level BPE, 50257 tokens".
    pub tokenizer: Option<String>,
    /// What it was trained on, one entry for each source.
    pub data: Vec<String>,
    /// The optimizer step of the checkpoint.
    pub step: u64,
    /// Tokens consumed in training until then, repeated ones counted each time.
    pub tokens: u64,
    /// Tokens in the training data, where known; with `tokens` it gives the number of epochs.
    pub data_tokens: Option<u64>,
    /// Floating-point operations of the whole training.
    pub flops: Option<f64>,
    /// Seconds that training took.
    pub training_seconds: Option<f64>,
    /// The power drawn meanwhile.
    pub power: Option<CardPower>,
    /// What the hardware costs.
    pub price: Option<CardPrice>,
    /// The picture of the loss curve, as a path from the card: "loss.png".
    pub loss_curve: Option<String>,
    /// Rows of the hyperparameter table, name and value: ("learning rate", "6e-4").
    pub hyperparameters: Vec<(String, String)>,
    /// What it was trained on and with, in words: "CPU, 16 threads", "1 x NVIDIA H200".
    pub hardware: Option<String>,
    /// The arithmetic: "fp32", "bf16".
    pub precision: Option<String>,
    /// How good it is.
    pub evaluation: Option<CardEvaluation>,
    /// Benchmarks.
    pub results: Vec<CardResult>,
    /// Limitations besides those of all pretrained models, a sentence or two each.
    pub limitations: Vec<String>,
    /// What it writes.
    pub samples: Vec<CardSample>,
    /// The seeds by name: ("seed_init", 1).
    pub seeds: Vec<(String, u64)>,
    /// The command that makes this model again: "taper train config.toml".
    pub command: Option<String>,
    /// The resolved config.
    pub config_toml: Option<String>,
    /// Version of `taper`, with the commit where known.
    pub taper_version: String,
    /// Versions of other things that results depend on, by name: ("CUDA driver", "580.82").
    pub versions: Vec<(String, String)>,
}

impl Default for Loading {
    fn default() -> Self {
        Loading::TaperOnly { because: Vec::new() }
    }
}

impl CardFacts {
    /// The facts as JSON: what a program keeps of them to render the card anew.
    ///
    /// # Errors
    /// Never for facts that a program made; numbers that are not finite come back as `null`.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| Error::Training(format!("the card's facts: {error}")))
    }

    /// Reads what [`CardFacts::to_json`] wrote; facts that a newer version added are passed over.
    ///
    /// # Errors
    /// `Data` with the place that is wrong.
    pub fn from_json(json: &str, origin: &std::path::Path) -> Result<CardFacts> {
        serde_json::from_str(json).map_err(|error| Error::data(origin, format!("are no facts of a card: {error}")))
    }
}
