//! A checkpoint's files: a model folder (or one of adapters), and next to it all that is needed to continue.

use std::path::{Path, PathBuf};

use crate::checkpoint::adapter::write_adapter;
use crate::checkpoint::state::{self, TrainingState};
use crate::checkpoint::store::{Draft, Keep, Store};
use crate::checkpoint::write_model_folder;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::tape::Params;

/// What a checkpoint is made of.
pub struct Snapshot<'a> {
    /// The model's shape and parameter names.
    pub model: &'a Gpt,
    /// The weights, in host memory.
    pub params: &'a Params,
    /// The tokenizer, whose files go into the folder.
    pub tokenizer: &'a Tokenizer,
    /// With adapters: what they correct.
    pub base: Option<&'a Base>,
    /// README.md, and what it was made from.
    pub card: Card,
}

/// The model that adapters correct.
#[derive(Clone, Debug)]
pub struct Base {
    /// A folder, or `OWNER/NAME` on the Hub.
    pub name: String,
    /// The XXH3 of its weights.
    pub hash: String,
}

impl Base {
    /// The model `name`, whose weights are the part of `params` that is not trained.
    pub fn new(name: String, params: &Params) -> Base {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        for piece in params.layout().frozen_pieces() {
            params.flat().f32()[piece].chunks(1 << 16).for_each(|part| {
                let bytes: Vec<u8> = part.iter().flat_map(|value| value.to_le_bytes()).collect();
                hash.update(&bytes);
            });
        }
        Base { name, hash: format!("{:016x}", hash.digest()) }
    }
}

/// A model card.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// README.md.
    pub readme: String,
    /// The facts that it tells, as JSON ([`CARD_FACTS`]): whoever pushes the checkpoint completes and renders them anew.
    pub facts: String,
}

/// The card's facts within a checkpoint.
pub const CARD_FACTS: &str = "training/card.json";

/// Writes the model's files into a checkpoint's folder; gives the SHA-256 of its weights by name.
///
/// # Errors
/// If the disk refuses.
pub fn write_model(folder: &Path, snapshot: &Snapshot<'_>) -> Result<Vec<(String, String)>> {
    let model = snapshot.model;
    let written = match (model.lora(), snapshot.base) {
        (Some(lora), Some(base)) => write_adapter(folder, lora, &base.name, model.layout(), snapshot.params)?,
        _ => write_model_folder(folder, model.config(), snapshot.params, snapshot.tokenizer.eot())?,
    };
    snapshot.tokenizer.save(folder, model.config().context_length)?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(Error::io("write", &path))
    };
    write("README.md", &snapshot.card.readme)?;
    write(CARD_FACTS, &snapshot.card.facts)?;
    Ok(vec![(written.name, written.sha256)])
}

/// Gives a checkpoint that has its model and its arena the state, and its name; moves the pointers, and removes old ones.
///
/// # Errors
/// If the disk refuses (a full disk, for one); then nothing is lost that was there before.
pub fn publish(
    store: &Store,
    draft: Draft,
    state: &TrainingState,
    arena: &str,
    model_sha256: &[(String, String)],
    keep: Keep,
) -> Result<PathBuf> {
    state::write(draft.path(), state, arena, model_sha256)?;
    let path = draft.publish()?;
    store.point("latest", state.step)?;
    let best = state.best.map(|(step, _)| step);
    if best == Some(state.step) {
        store.point("best", state.step)?;
    }
    store.prune(keep, best)?;
    tracing::debug!(step = state.step, path = %path.display(), "checkpoint written");
    Ok(path)
}

/// The newest checkpoint that is whole, with its content. Damaged ones are passed over with a word each.
///
/// # Errors
/// If the folder cannot be read, or there are checkpoints and all of them are damaged.
pub fn newest_whole(store: &Store, note: &dyn Fn(&str)) -> Result<Option<(TrainingState, state::ArenaData)>> {
    store.sweep()?;
    let steps = store.steps()?;
    for &step in steps.iter().rev() {
        match state::read(&store.path(step)) {
            Ok(found) => return Ok(Some(found)),
            Err(error) => note(&format!("checkpoint of step {step} cannot be used: {error}")),
        }
    }
    match steps.is_empty() {
        true => Ok(None),
        false => Err(Error::Training(format!(
            "none of the {} checkpoints is whole (see above); start anew in another folder, or from a model folder with \
             model.init_from",
            steps.len()
        ))),
    }
}
