//! What a run needs besides for instruction tuning: adapters, and data made of conversations.

use std::path::Path;

use crate::arch::ModelConfig;
use crate::arch::lora::Lora;
use crate::checkpoint::adapter;
use crate::config::Config;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::run::chat;
use crate::run::source::Streams;
use crate::ui::Ui;

/// The adapters that the config asks for.
///
/// # Errors
/// `Usage` if the model cannot have them.
pub fn adapters(config: &Config, shape: &ModelConfig, init_from: Option<&Path>) -> Result<Option<Lora>> {
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
///
/// # Errors
/// As [`chat::template`] and [`chat::streams`]; `Usage` if the tokenizer has more ids than the model.
pub fn conversations(
    run: &Path,
    config: &Config,
    tokenizer: Tokenizer,
    init_from: Option<&Path>,
    model: &ModelConfig,
    resuming: bool,
    ui: &dyn Ui,
) -> Result<(Streams, Tokenizer)> {
    if tokenizer.vocab_size() > model.vocab_size {
        return Err(Error::usage(format!(
            "the tokenizer has {} ids, and the model's vocabulary only {}",
            tokenizer.vocab_size(),
            model.vocab_size
        )));
    }
    let (template, from) = chat::template(run, &config.data, init_from, &tokenizer, resuming)?;
    ui.info(&from);
    let shuffle = config.data.shuffle.then(|| config.run.seed_data());
    let packing = chat::Packing { context_length: model.context_length, shuffle };
    let with = (&template, &tokenizer);
    let streams = chat::streams(run, &config.data, with, packing, resuming, ui)?;
    let tokenizer = tokenizer.with_chat_template(template.source());
    Ok((streams, tokenizer))
}
