//! The training state next to a model folder: `training/arena.safetensors` and `training/state.json`.
//!
//! The arena file ([`super::arena_file`]) holds the fp32 master weights and the optimizer's slots as flat tensors in
//! the arena's order, so that what is read back is what was written, bit for bit. state.json holds the counters, and
//! the checksums of every file that resuming depends on: XXH3 for training/*, SHA-256 for model.safetensors. Its own
//! last field is the checksum of the rest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::arena_file::{self, ARENA};
pub use super::arena_file::{ArenaData, TRAINING};
use super::fs::{sync_folder, write_synced};
use crate::error::{Error, Result};

const STATE: &str = "state.json";
/// 2: the arena's checksum is made of chunks.
const VERSION: u32 = 2;

/// Everything besides the numbers of the arena that is needed to resume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingState {
    /// Version of this format.
    pub version: u32,
    /// Finished optimizer steps.
    pub step: u64,
    /// Tokens consumed.
    pub tokens: u64,
    /// The global index of the next training sequence: the position in the data.
    pub next_sequence: u64,
    /// Updates applied (steps that were not skipped): Adam's t.
    pub updates: u64,
    /// With fp16: what the loss is multiplied with, and the updates applied since that last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<(f32, u32)>,
    /// Skipped steps in a row, just now.
    pub consecutive_skips: u64,
    /// Losses of the last steps, which the detection of spikes looks at.
    pub recent_losses: Vec<f64>,
    /// The validation loss of this very step, where it was measured.
    pub val_loss: Option<f64>,
    /// The lowest validation loss so far and its step.
    pub best: Option<(u64, f64)>,
    /// The checkpoint that was last gone back to after a spike, and how often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollbacks: Option<(u64, u64)>,
    /// Seeds of initial weights, data order and dropout.
    pub seeds: [u64; 3],
    /// The resolved micro-batch: part of the run, because it is part of the order of sums.
    pub micro_batch: usize,
    /// Hash of the part of the config that decides results.
    pub config_hash: String,
    /// Hash of the tokenizer.
    pub tokenizer_hash: String,
    /// Hardware kind that wrote it: the same kind resumes with the same bits.
    pub hardware: String,
    /// With adapters: the XXH3 of the weights that they correct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_hash: Option<String>,
}

impl TrainingState {
    /// The format's version, for new states.
    pub const VERSION: u32 = VERSION;
}

/// state.json: the state and what guards it.
#[derive(Serialize, Deserialize)]
struct StateFile {
    #[serde(flatten)]
    state: TrainingState,
    files: BTreeMap<String, String>,
}

/// Writes the state into a checkpoint folder that holds the model and the arena already; `arena` is the checksum of
/// that ([`super::arena_file::ArenaFile::checksum`]), and `model_sha256` are the digests of the weight files by name.
/// Files are synced to disk.
///
/// # Errors
/// If something cannot be written.
pub fn write(folder: &Path, state: &TrainingState, arena: &str, model_sha256: &[(String, String)]) -> Result<()> {
    let training = folder.join(TRAINING);
    let mut files: BTreeMap<String, String> =
        model_sha256.iter().map(|(name, digest)| (name.clone(), format!("sha256:{digest}"))).collect();
    files.insert(format!("{TRAINING}/{ARENA}"), arena.to_string());
    let state = TrainingState { version: VERSION, ..state.clone() };
    let file = StateFile { state, files };
    let mut json = serde_json::to_value(&file).map_err(|error| Error::data(&training, error.to_string()))?;
    let own = seal(&json);
    json["checksum"] = own.into();
    let path = training.join(STATE);
    let mut text = serde_json::to_string_pretty(&json).map_err(|error| Error::data(&path, error.to_string()))?;
    text.push('\n');
    write_synced(&path, text.as_bytes())?;
    sync_folder(&training)
}

/// The checksum of state.json's content without its own field.
fn seal(json: &serde_json::Value) -> String {
    let mut json = json.clone();
    if let Some(object) = json.as_object_mut() {
        object.remove("checksum");
    }
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(json.to_string().as_bytes()))
}

/// Reads the state and checks every checksum it names, those of the model's weights included.
///
/// # Errors
/// A `Data` error that names the file that is missing, torn or changed.
pub fn read(folder: &Path) -> Result<(TrainingState, ArenaData)> {
    let (file, damaged) = read_file(folder)?;
    for (name, recorded) in &file.files {
        // The arena is checked while it is read.
        if let Some(digest) = recorded.strip_prefix("sha256:") {
            let path = folder.join(name);
            if sha256_file(&path)? != digest {
                return Err(Error::data(path, "was changed or torn: its SHA-256 is not the one that was recorded"));
            }
        }
    }
    let arena = folder.join(TRAINING).join(ARENA);
    let recorded = file.files.get(&format!("{TRAINING}/{ARENA}"));
    let recorded = recorded.ok_or_else(|| damaged("it has no checksum of the arena".into()))?;
    Ok((file.state, arena_file::read(&arena, recorded)?))
}

/// Reads where in its run a checkpoint stands, and none of the large files.
///
/// # Errors
/// A `Data` error if the state is missing, torn or changed.
pub fn read_position(folder: &Path) -> Result<TrainingState> {
    read_file(folder).map(|(file, _)| file.state)
}

/// The file of the state, checked by its own checksum, and how to say that something is wrong in it.
fn read_file(folder: &Path) -> Result<(StateFile, impl Fn(String) -> Error)> {
    let path = folder.join(TRAINING).join(STATE);
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let place = path.clone();
    let damaged = move |what: String| Error::data(&place, format!("the training state is damaged: {what}"));
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if json["version"].as_u64().is_some_and(|version| version > u64::from(VERSION)) {
        return Err(Error::data(&path, format!("is of format version {}, newer than this program", json["version"])));
    }
    if json["checksum"].as_str() != Some(&seal(&json)) {
        return Err(damaged("its checksum does not fit its content".into()));
    }
    let file: StateFile = serde_json::from_value(json).map_err(|error| damaged(error.to_string()))?;
    Ok((file, damaged))
}

fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> TrainingState {
        TrainingState {
            version: VERSION,
            step: 7,
            tokens: 7168,
            next_sequence: 28,
            updates: 6,
            loss_scale: Some((0.3, 5)),
            consecutive_skips: 1,
            recent_losses: vec![3.25, 1.0 / 3.0],
            val_loss: Some(3.2),
            best: Some((5, 3.1)),
            rollbacks: Some((4, 2)),
            seeds: [1, 2, 3],
            micro_batch: 4,
            config_hash: "c".into(),
            tokenizer_hash: "t".into(),
            hardware: "cpu".into(),
            base_hash: Some("b".into()),
        }
    }

    #[test]
    fn what_is_written_is_read_and_every_flipped_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.safetensors");
        std::fs::write(&model, b"weights").unwrap();
        let digest = sha256_file(&model).unwrap();
        let (w, m, v) = ([1.0f32, -2.5, f32::MIN_POSITIVE], [0.1f32, 0.2, 0.3], [4.0f32, 5.0, 6.0]);
        let model_files = [("model.safetensors".to_string(), digest)];
        let file = arena_file::ArenaFile::of(folder.path(), 3, &["m", "v"]);
        file.create().unwrap();
        let part = file.write(0..3, &[&w, &m, &v]).unwrap();
        write(folder.path(), &state(), &file.checksum(&[part]).unwrap(), &model_files).unwrap();
        let (found, arena) = read(folder.path()).unwrap();
        let slots = vec![("m".to_string(), m.to_vec()), ("v".to_string(), v.to_vec())];
        assert_eq!((found, arena), (state(), ArenaData { weights: w.into(), slots }));

        for name in ["model.safetensors", "training/arena.safetensors", "training/state.json"] {
            let path = folder.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            let unnoticed_only_if_the_same = |bytes: &[u8], what: String| {
                std::fs::write(&path, bytes).unwrap();
                // Blanks and line breaks of state.json carry nothing; everything else must be noticed.
                if let Ok((found, _)) = read(folder.path()) {
                    assert_eq!((name, found), ("training/state.json", state()), "{what}");
                }
            };
            for at in (0..whole.len()).step_by(7) {
                let mut torn = whole.clone();
                torn[at] ^= 1;
                unnoticed_only_if_the_same(&torn, format!("byte {at}"));
                unnoticed_only_if_the_same(&whole[..at], format!("{name} cut at {at}"));
            }
            std::fs::write(&path, &whole).unwrap();
        }
        assert!(read(folder.path()).is_ok());

        // As version 1 wrote it: one checksum of the whole file.
        let arena = std::fs::read(folder.path().join("training/arena.safetensors")).unwrap();
        let path = folder.path().join("training/state.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json["version"] = 1.into();
        let old = format!("xxh3:{:016x}", xxhash_rust::xxh3::xxh3_64(&arena));
        json["files"]["training/arena.safetensors"] = old.into();
        json["checksum"] = seal(&json).into();
        std::fs::write(&path, json.to_string()).unwrap();
        assert_eq!(read(folder.path()).unwrap().1.slots[1].1, v);
    }
}
