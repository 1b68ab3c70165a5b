//! What `taper train` does besides for instruction tuning: adapters, and data made of conversations.

use std::path::Path;

use crate::arch::ModelConfig;
use crate::arch::lora::Lora;
use crate::checkpoint::adapter;
use crate::cli::open;
use crate::cli::ui::progress::say;
use crate::config::Config;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::train::chat;
use crate::train::source::Streams;

/// The adapters that the config asks for.
pub(crate) fn adapters(config: &Config, shape: &ModelConfig, init_from: Option<&Path>) -> Result<Option<Lora>> {
    if config.lora.rank.is_none() {
        return Ok(None);
    }
    if let Some(folder) = init_from.filter(|folder| adapter::is_adapter(folder)) {
        return Err(Error::usage(format!(
            "model.init_from {} is itself an adapter, and lora.rank asks for another; merge it first (taper model export \
             --merge), or train all parameters",
            folder.display()
        )));
    }
    let family = adapter::family(shape).ok_or_else(|| {
        Error::usage(
            "lora.rank: adapters are laid out as peft's, for models that transformers has (GPT-2's and Llama's shape); this \
             model is neither",
        )
    })?;
    config.lora.resolve(family)
}

/// The data of a run on conversations, and the tokenizer with their template.
pub(crate) fn conversations(
    run: &Path,
    config: &Config,
    tokenizer: Tokenizer,
    init_from: Option<&Path>,
    model: &ModelConfig,
    goes_on: bool,
) -> Result<(Streams, Tokenizer)> {
    if tokenizer.vocab_size() > model.vocab_size {
        return Err(Error::usage(format!(
            "the tokenizer has {} ids, and the model's vocabulary only {}",
            tokenizer.vocab_size(),
            model.vocab_size
        )));
    }
    let (template, from) = chat::template(run, &config.data, init_from, &tokenizer, goes_on)?;
    say(&from);
    let shuffle = config.data.shuffle.then(|| config.run.seed_data());
    let packing = chat::Packing { context_length: model.context_length, shuffle };
    let with = (&template, &tokenizer);
    let streams = chat::streams(run, &config.data, with, packing, goes_on, &open::data_section)?;
    let tokenizer = tokenizer.with_chat_template(template.source());
    Ok((streams, tokenizer))
}
