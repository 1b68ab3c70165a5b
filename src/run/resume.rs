//! What a resumed run continues from, and whether it may.

use std::path::Path;

use crate::checkpoint::state::{self, ArenaData, TrainingState};
use crate::checkpoint::store::Store;
use crate::collective::Ranks;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::run::folder::EVENTS;
use crate::train::save;
use crate::ui::Ui;

/// The state to continue from: rank 0 looks for it, and all read it, or get it from rank 0 where the run folder
/// `is_shared` not.
pub(super) fn find_state(
    ranks: &Ranks,
    run: &Path,
    store: &Store,
    is_shared: bool,
    ui: &dyn Ui,
) -> Result<Option<(TrainingState, ArenaData)>> {
    let mut found = None;
    let step = ranks.from_root("checkpoint", || {
        found = save::newest_whole(store, &|text| ui.info(text))?;
        if found.is_none() {
            ui.info("there is no checkpoint to continue from: the run starts from the beginning");
            let log = run.join(EVENTS);
            if log.exists() {
                // Records of steps that no state leads to.
                std::fs::remove_file(&log).map_err(Error::io("remove", &log))?;
            }
        }
        Ok(found.as_ref().map_or(String::new(), |(state, _): &(TrainingState, ArenaData)| state.step.to_string()))
    })?;
    if !is_shared && !step.is_empty() {
        return sent_by_root(ranks, found).map(Some);
    }
    match step.parse() {
        Ok(step) if !ranks.is_root() => state::read(&store.path(step)).map(Some),
        _ => Ok(found),
    }
}

/// Gives every rank what rank 0 has `found`.
fn sent_by_root(ranks: &Ranks, found: Option<(TrainingState, ArenaData)>) -> Result<(TrainingState, ArenaData)> {
    let wrong = |why: String| Error::Training(format!("rank 0 sent a checkpoint that cannot be read: {why}"));
    let (mut json, mut weights, mut slots) = (Vec::new(), Vec::new(), Vec::new());
    if let Some((state, arena)) = found {
        let names: Vec<&String> = arena.slots.iter().map(|(name, _)| name).collect();
        json = serde_json::to_vec(&(&state, names)).map_err(|error| wrong(error.to_string()))?;
        (weights, slots) = (arena.weights, arena.slots);
    }
    let json = ranks.gather_after_work("checkpoint", &json)?.swap_remove(0);
    let told = serde_json::from_slice(&json).map_err(|error| wrong(error.to_string()))?;
    let (state, names): (TrainingState, Vec<String>) = told;
    let send = |mine: Vec<f32>| -> Result<Vec<f32>> {
        let bytes = ranks.gather_after_work("checkpoint", bytemuck::cast_slice(&mine))?.swap_remove(0);
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    };
    let weights = send(weights)?;
    let mut own = slots.into_iter().map(|(_, values)| values);
    let slots = names.into_iter().map(|name| Ok((name, send(own.next().unwrap_or_default())?)));
    Ok((state, ArenaData { weights, slots: slots.collect::<Result<_>>()? }))
}

/// Compares a resumed run's config with the one it was started with: another model or other data cannot continue; other
/// settings can, with a word that the result is not that of an unbroken run.
pub(super) fn check_same_run(run: &Path, config: &Config, state: &TrainingState, ui: &dyn Ui) -> Result<()> {
    if state.config_hash == config.hash() {
        return Ok(());
    }
    let path = run.join("config.toml");
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let before = Config::from_str(&text, &path.to_string_lossy(), &[])?;
    let changed: Vec<_> = before.differences(config).into_iter().filter(|difference| difference.determines).collect();
    let describe = |difference: &crate::config::Difference| {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".into());
        format!("{} {} -> {}", difference.key, value(&difference.before), value(&difference.after))
    };
    let fixed = |key: &str| ["model.", "lora.", "tokenizer.", "data."].iter().any(|section| key.starts_with(section));
    let barred: Vec<String> = changed
        .iter()
        .filter(|difference| {
            fixed(&difference.key) && !["model.dropout", "lora.dropout"].contains(&difference.key.as_str())
        })
        .map(describe)
        .collect();
    if !barred.is_empty() {
        return Err(Error::usage(format!(
            "the run in {} cannot continue with another model or other data ({}); use its own config, or start a new run with \
             model.init_from",
            run.display(),
            barred.join(", ")
        )));
    }
    if changed.is_empty() {
        // Written by a version with fewer keys; the new ones have their defaults.
        return Ok(());
    }
    let list = changed.iter().map(describe).collect::<Vec<_>>().join(", ");
    ui.note(&format!(
        "the config has changed since the run began ({list}): it continues, but not as an unbroken run would"
    ));
    Ok(())
}
