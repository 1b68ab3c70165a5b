//! The second stage: the config as a whole.
//!
//! Ranges are each section's own business; here they are put together, defaults that depend on other keys become explicit,
//! and what parses but does not work yet is refused in one table, so that no key is silently without effect.

use super::Config;
use crate::arch::lora::LoraConfig;
use crate::data::config::DataFormat;
use crate::data::tokenizer::config::TokenizerKind;
use crate::optim::config::{ScheduleConfig, ScheduleKind};
use crate::setting::{Interval, Problem};
use crate::train::config::{Communication, Reduction};

/// Checks the config and fills in the defaults that depend on other keys; a second time changes nothing.
///
/// # Errors
/// The first problem found.
pub(super) fn finish(config: &mut Config) -> Result<(), Problem> {
    fill_tokenizer(config);
    config.run.validate()?;
    config.model.validate()?;
    config.lora.validate()?;
    config.tokenizer.validate()?;
    config.data.validate()?;
    config.train.validate()?;
    config.optimizer.validate()?;
    config.schedule.validate()?;
    config.stability.validate()?;
    config.eval.validate()?;
    config.checkpoint.validate()?;
    config.dist.validate()?;
    config.sample.validate()?;
    config.push.validate()?;
    check_lora(config)?;
    fill_model(config)?;
    fill_rest(config);
    check_lanes(config)
}

/// A model to start from brings its tokenizer.
fn fill_tokenizer(config: &mut Config) {
    let tokenizer = &mut config.tokenizer;
    let init_from = config.model.init_from.as_ref();
    if tokenizer.kind.is_none() && tokenizer.path.is_none() && init_from.is_some() {
        tokenizer.kind = Some(TokenizerKind::File);
    }
    tokenizer.kind = Some(tokenizer.kind());
    if tokenizer.kind == Some(TokenizerKind::File) && tokenizer.path.is_none() {
        tokenizer.path = init_from.cloned();
    }
    if tokenizer.kind == Some(TokenizerKind::Train) {
        tokenizer.vocab_size = Some(tokenizer.vocab_size());
    }
}

/// Without `init_from` everything but the vocabulary is known; with it, the shape waits for the folder.
fn fill_model(config: &mut Config) -> Result<(), Problem> {
    if config.model.init_from.is_some() {
        return Ok(());
    }
    let vocab_size = config.model.vocab_size;
    let shape = config.model.resolve(vocab_size.unwrap_or(1), None).map_err(|error| {
        // The shape's own check speaks of `model.KEY = ...`; the first word is the key.
        let message = error.to_string();
        Problem::new(message.split(' ').next().unwrap_or_default(), message.clone())
    })?;
    config.model.set(&shape);
    config.model.vocab_size = vocab_size;
    Ok(())
}

fn fill_rest(config: &mut Config) {
    let run = &mut config.run;
    run.seed_init = Some(run.seed_init());
    run.seed_data = Some(run.seed_data());
    run.seed_dropout = Some(run.seed_dropout());
    if config.data.shards.is_none() {
        config.data.val_fraction = Some(config.data.val_fraction());
    }
    config.train.global_batch = Some(config.train.global_batch());
    let schedule = &mut config.schedule;
    if schedule.kind == ScheduleKind::Wsd && schedule.decay_steps.is_none() {
        schedule.decay_fraction = schedule.decay_fraction.or(Some(ScheduleConfig::DECAY_FRACTION));
    }
}

/// Lanes are made of whole micro-batches.
pub(super) fn check_lanes(config: &Config) -> Result<(), Problem> {
    let (Some(lanes), Some(micro_batch)) = (config.dist.lanes, config.train.micro_batch.sequences()) else {
        return Ok(());
    };
    let count = config.train.global_batch() / micro_batch;
    if count.is_multiple_of(lanes) {
        return Ok(());
    }
    let message = format!(
        "dist.lanes = {lanes} does not divide the {count} micro-batches of a step (train.global_batch / train.micro_batch)"
    );
    Err(Problem::new("dist.lanes", message))
}

/// Adapters stand next to a model that is there.
fn check_lora(config: &Config) -> Result<(), Problem> {
    if config.lora.rank.is_some() && config.model.init_from.is_none() {
        let message = "lora.rank asks for adapters, which correct a model that is there; name it (model.init_from), or \
                       remove the key";
        return Err(Problem::new("lora.rank", message));
    }
    if config.lora.rank.is_some() && config.dist.shard_optimizer {
        let message = "dist.shard_optimizer = true divides the optimizer's state among processes, and that of adapters is small; \
                       remove the key";
        return Err(Problem::new("dist.shard_optimizer", message));
    }
    Ok(())
}

/// What is allowed but probably not meant.
pub(super) fn notes(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    let kind = config.tokenizer.kind();
    if config.tokenizer.vocab_size.is_some() && kind != TokenizerKind::Train {
        notes.push("tokenizer.vocab_size has no effect: it is for tokenizer.kind = \"train\"".into());
    }
    if config.tokenizer.path.is_some() && kind != TokenizerKind::File {
        notes.push("tokenizer.path has no effect: it is for tokenizer.kind = \"file\"".into());
    }
    if config.lora.rank.is_none() && config.lora != LoraConfig::default() {
        notes.push("[lora] has no effect without lora.rank".into());
    }
    if config.data.chat_template.is_some() && config.data.format != DataFormat::Chat {
        notes.push("data.chat_template has no effect: it is for data.format = \"chat\"".into());
    }
    let schedule = &config.schedule;
    if schedule.kind != ScheduleKind::Wsd && (schedule.decay_steps.is_some() || schedule.decay_fraction.is_some()) {
        notes.push(
            "schedule.decay_steps and decay_fraction have no effect: they are for schedule.kind = \"wsd\"".into(),
        );
    }
    if let Some(steps) = config.train.max_steps.filter(|&steps| steps <= schedule.warmup_steps) {
        notes.push(format!(
            "the whole run is warmup: schedule.warmup_steps = {} and train.max_steps = {steps}",
            schedule.warmup_steps
        ));
    }
    if config.dist.reduction == Reduction::Fast || config.dist.communication == Communication::Bf16 {
        notes.push(
            "with dist.reduction = \"fast\" or dist.communication = \"bf16\" the result depends on the number of processes: a \
             run on another number of them is not the same to the last bit"
                .into(),
        );
    }
    if let (Some(keep), Interval::Steps(every)) = (config.checkpoint.keep_every, config.checkpoint.every)
        && !keep.is_multiple_of(every)
    {
        notes.push(format!(
            "checkpoint.keep_every = {keep} is not a multiple of checkpoint.every = {every}: only steps that are a multiple \
             of both are kept for good"
        ));
    }
    notes
}
