//! Writing a checkpoint: a model folder (or one of adapters), and beside it all that is needed to go on.

use std::path::{Path, PathBuf};

use crate::checkpoint::adapter::write_adapter;
use crate::checkpoint::state::{self, TrainingState};
use crate::checkpoint::store::{Keep, Store};
use crate::checkpoint::write_model_folder;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::tape::Params;

/// What a checkpoint is made of.
pub struct Snapshot<'a> {
    /// The model's shape and parameter names.
    pub model: &'a Gpt,
    /// The weights.
    pub params: &'a Params,
    /// First and second moments, flat in arena layout.
    pub moments: [&'a [f32]; 2],
    /// The tokenizer, whose files go into the folder.
    pub tokenizer: &'a Tokenizer,
    /// With adapters: what they correct.
    pub base: Option<&'a Base>,
    /// The counters.
    pub state: &'a TrainingState,
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
        let weights = &params.flat().f32()[..params.layout().frozen()];
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        weights.chunks(1 << 16).for_each(|part| {
            let bytes: Vec<u8> = part.iter().flat_map(|value| value.to_le_bytes()).collect();
            hash.update(&bytes);
        });
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

/// Writes the checkpoint, moves the pointers, and removes old ones.
///
/// # Errors
/// If the disk refuses (a full disk, for one); then nothing is lost that was there before.
pub fn save(store: &Store, snapshot: &Snapshot<'_>, keep: Keep) -> Result<PathBuf> {
    let step = snapshot.state.step;
    let path = store.save(step, |folder| fill(folder, snapshot))?;
    store.point("latest", step)?;
    let best = snapshot.state.best.map(|(step, _)| step);
    if best == Some(step) {
        store.point("best", step)?;
    }
    store.prune(keep, best)?;
    Ok(path)
}

fn fill(folder: &Path, snapshot: &Snapshot<'_>) -> Result<()> {
    let model = snapshot.model;
    let written = match (model.lora(), snapshot.base) {
        (Some(lora), Some(base)) => write_adapter(folder, lora, &base.name, model.layout(), snapshot.params)?,
        _ => write_model_folder(folder, model.config(), snapshot.params, snapshot.tokenizer.eot())?,
    };
    snapshot.tokenizer.save(folder, model.config().context_length)?;
    let readme = folder.join("README.md");
    std::fs::write(&readme, &snapshot.card.readme).map_err(Error::io("write", &readme))?;
    let [m, v] = snapshot.moments;
    let digests = [(written.name, written.sha256)];
    state::write(folder, snapshot.state, [snapshot.params.trained().f32(), m, v], &digests)?;
    let facts = folder.join(CARD_FACTS);
    std::fs::write(&facts, &snapshot.card.facts).map_err(Error::io("write", &facts))
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
