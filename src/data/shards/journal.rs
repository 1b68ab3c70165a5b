//! How far the preparation of a folder has come, so that a killed one continues where it stopped.
//!
//! The journal is a small JSON file, replaced whole after every finished shard. It names the finished shards, the place in
//! the inputs where the next one begins, and a fingerprint of everything that decides the tokens: if that differs, nothing
//! of the old work is used. A folder with a journal and no manifest is half-made.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::shards::manifest::{MANIFEST, ShardRecord, Split};
use crate::data::shards::shard::write_whole;
use crate::error::{Error, Result};

const JOURNAL: &str = ".prepare.json";
const LOCK: &str = ".lock";

/// The stages of a preparation. Each can be repeated after a kill in its middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::data) enum Phase {
    /// Tokens are written, the held-out ones still at the end of the training shards.
    Write,
    /// The held-out tokens are copied into validation shards.
    Hold,
    /// The copied tokens are cut off the training shards.
    Trim,
    /// The manifest is written.
    Done,
}

/// How far one split has come, as of its last finished shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::data) struct SplitState {
    pub shards: Vec<ShardRecord>,
    /// All tokens in those shards.
    pub tokens: u64,
    /// Documents that have tokens in those shards.
    pub documents: u64,
    /// The piece of the inputs that the next token comes from, and how many of its tokens are written.
    pub source: usize,
    pub piece: u64,
    pub skip: u64,
    /// A document has begun that has no token yet.
    pub begun: bool,
    pub finished: bool,
}

/// The journal of a folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::data) struct Journal {
    pub fingerprint: String,
    pub phase: Phase,
    pub train: SplitState,
    pub val: SplitState,
    /// Where the held-out tokens begin and the training tokens end, once that is known.
    pub cut: Option<Cut>,
}

/// How the stream is divided: training is `..train`, validation `val..total`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::data) struct Cut {
    pub train: u64,
    pub val: u64,
    pub total: u64,
}

impl Journal {
    /// How far a split has come.
    pub fn split_mut(&mut self, split: Split) -> &mut SplitState {
        match split {
            Split::Train => &mut self.train,
            Split::Val => &mut self.val,
        }
    }

    pub fn new(fingerprint: String) -> Journal {
        Journal {
            fingerprint,
            phase: Phase::Write,
            train: SplitState::default(),
            val: SplitState::default(),
            cut: None,
        }
    }

    /// The journal of a folder; `None` if there is none, or none that can be read: then the work begins anew.
    pub fn load(folder: &Path) -> Option<Journal> {
        serde_json::from_slice(&std::fs::read(folder.join(JOURNAL)).ok()?).ok()
    }

    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(JOURNAL);
        let text = serde_json::to_vec(self).map_err(|error| Error::data(&path, error.to_string()))?;
        write_whole(&path, &text)?;
        sync_folder(folder)
    }

    /// Removes every shard the journal can have made, the unfinished ones, and the journal itself.
    pub fn discard(folder: &Path) -> Result<()> {
        for path in files(folder)?.iter().filter(|path| is_ours(path) || is_temporary(path)) {
            remove(path)?;
        }
        remove(&folder.join(JOURNAL))
    }

    /// Removes what was never finished.
    pub fn sweep(folder: &Path) -> Result<()> {
        files(folder)?.iter().filter(|path| is_temporary(path)).try_for_each(remove)
    }
}

/// Whether a folder's preparation was begun and not finished.
pub(in crate::data) fn is_half_made(folder: &Path) -> bool {
    folder.join(JOURNAL).exists() && !folder.join(MANIFEST).exists()
}

/// Takes the folder for one process; the lock goes with the returned file, however the process ends.
pub(in crate::data) fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Error::usage(format!("{}: another process is preparing shards in this folder", folder.display())))
        }
        // File systems without locks (some network ones) work as they always did.
        Err(std::fs::TryLockError::Error(_)) => Ok(file),
    }
}

/// The plain files of a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// The name of a shard of ours.
pub(in crate::data) fn shard_name(split: &str, number: usize) -> String {
    format!("{split}_{number:06}.bin")
}

/// `train_NNNNNN.bin` or `val_NNNNNN.bin`: the names that preparation gives, and no other tool's.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = name.strip_suffix(".bin").and_then(|stem| stem.strip_prefix("train_").or(stem.strip_prefix("val_")));
    number.is_some_and(|number| number.len() >= 6 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".tmp")) {
        Some(inner) => is_ours(Path::new(inner)) || inner == MANIFEST || inner == JOURNAL,
        None => false,
    }
}

/// Removes a file, which may be gone already.
pub(in crate::data) fn remove(path: &PathBuf) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Forces renames and removals in a folder to the disk, where the system can.
pub(in crate::data) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(Error::io("write", folder))?;
    }
    Ok(())
}
