//! How tokens are chosen: the arguments that sample and chat share.

use crate::error::Result;
use crate::sample::SamplerConfig;

/// The rules of the sampler, in the order of their use: penalty, temperature, top-k, top-p, min-p.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SamplerArgs {
    /// Logits are divided by this; 0 always takes the most likely token.
    #[arg(long, value_name = "X", default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f64,
    /// Consider only the K most likely tokens.
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Consider only the most likely tokens that together reach this probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Consider only tokens at least this likely, relative to the most likely one.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f64>,
    /// Divide the logits of tokens that occurred already by this (multiply, where negative); 1 is off.
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f64,
    /// The seed of the draws.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

impl SamplerArgs {
    /// The sampler that they describe.
    ///
    /// # Errors
    /// A `Usage` error that names the option that is out of range.
    pub fn config(&self) -> Result<SamplerConfig> {
        let config = SamplerConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        config.validate().map(|()| config)
    }
}
