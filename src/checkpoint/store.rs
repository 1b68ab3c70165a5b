//! The `checkpoints/` folder of a run: whole checkpoints only, pointers that are never half-written, old ones removed late.
//!
//! A checkpoint is written into a folder whose name starts with a dot, synced, and renamed: it appears whole or not at
//! all. Readers never need the pointer files; they are for people and other programs.

use std::path::{Path, PathBuf};

use super::fs::{sync_folder, write_synced};
use crate::error::{Error, Result};

/// The folder of a run's checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";

/// Which old checkpoints stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The newest ones.
    pub last: usize,
    /// Those whose step is a multiple of this.
    pub every: Option<u64>,
    /// This one.
    pub pinned: Option<u64>,
}

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The store of a run folder; nothing is created yet.
    pub fn of_run(run: &Path) -> Store {
        Store { folder: run.join(CHECKPOINTS) }
    }

    /// The folder of a step's checkpoint.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(name(step))
    }

    /// Steps that have a checkpoint, ascending. (Whether each is undamaged shows when it is read.)
    ///
    /// # Errors
    /// If the folder exists and cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &self.folder)(error)),
        };
        let step_of = |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<u64> = entries.flatten().filter_map(step_of).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes a checkpoint: `fill` puts the files into a temporary folder, which then takes its name at once.
    ///
    /// # Errors
    /// Those of `fill`, or if the disk refuses; an unfinished folder is removed, and what was there before stays.
    pub fn save(&self, step: u64, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let draft = self.begin(step)?;
        fill(&draft.path)?;
        draft.publish()
    }

    /// Where the checkpoint of a step is put together: for processes that help the one that has begun it.
    pub fn draft(&self, step: u64) -> PathBuf {
        self.folder.join(format!(".{}", name(step)))
    }

    /// Begins a checkpoint, in an empty folder.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn begin(&self, step: u64) -> Result<Draft> {
        std::fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))?;
        let path = self.draft(step);
        remove(&path)?;
        std::fs::create_dir(&path).map_err(Error::io("create", &path))?;
        Ok(Draft { store: self.clone(), step, path })
    }

    fn publish(&self, step: u64, temporary: &Path) -> Result<PathBuf> {
        sync_folder(temporary)?;
        let path = self.path(step);
        if path.exists() {
            // A damaged one, or the same step once more after a resume: out of the way first, removed last.
            let old = self.folder.join(format!(".old-{}", name(step)));
            remove(&old)?;
            std::fs::rename(&path, &old).map_err(Error::io("rename", &path))?;
            std::fs::rename(temporary, &path).map_err(Error::io("rename", temporary))?;
            remove(&old)?;
        } else {
            std::fs::rename(temporary, &path).map_err(Error::io("rename", temporary))?;
        }
        sync_folder(&self.folder)?;
        Ok(path)
    }

    /// Points `latest` or `best` to a step.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn point(&self, pointer: &str, step: u64) -> Result<()> {
        let temporary = self.folder.join(format!(".{pointer}"));
        write_synced(&temporary, format!("{}\n", name(step)).as_bytes())?;
        let path = self.folder.join(pointer);
        std::fs::rename(&temporary, &path).map_err(Error::io("rename", &path))?;
        sync_folder(&self.folder)
    }

    /// The step that a pointer names, if it does and its checkpoint is there.
    pub fn pointed(&self, pointer: &str) -> Option<u64> {
        let text = std::fs::read_to_string(self.folder.join(pointer)).ok()?;
        let step = text.trim().strip_prefix("step-")?.parse().ok()?;
        self.path(step).is_dir().then_some(step)
    }

    /// Removes checkpoints that `keep` does not ask for; the newest and `best` always stay.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn prune(&self, keep: Keep, best: Option<u64>) -> Result<()> {
        let steps = self.steps()?;
        let newest = steps.len().saturating_sub(keep.last.max(1));
        for &step in &steps[..newest] {
            let wanted = [best, keep.pinned].contains(&Some(step));
            let stays = wanted || keep.every.is_some_and(|every| every > 0 && step.is_multiple_of(every));
            if !stays {
                // Renamed first, so that a removal cut short leaves no half checkpoint behind.
                let old = self.folder.join(format!(".old-{}", name(step)));
                remove(&old)?;
                std::fs::rename(self.path(step), &old).map_err(Error::io("remove", &old))?;
                remove(&old)?;
            }
        }
        Ok(())
    }

    /// Removes what a run that was killed left half-written.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sweep(&self) -> Result<()> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Ok(()) };
        for entry in entries.flatten() {
            let file_name = entry.file_name();
            let file_name = file_name.to_string_lossy();
            if let Some(step) = file_name.strip_prefix(".old-step-").and_then(|step| step.parse().ok())
                && !self.path(step).exists()
            {
                // Killed between the two renames: the old one is still the only one.
                let path = self.path(step);
                std::fs::rename(entry.path(), &path).map_err(Error::io("rename", &path))?;
            } else if file_name.starts_with('.') {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// A checkpoint in the making. It is removed when this is dropped, unless it was published.
#[derive(Debug)]
pub struct Draft {
    store: Store,
    step: u64,
    path: PathBuf,
}

impl Draft {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the folder its name, at once.
    ///
    /// # Errors
    /// If the disk refuses; then what was there before stays.
    pub fn publish(self) -> Result<PathBuf> {
        self.store.publish(self.step, &self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // The error that led here is what matters; a leftover is swept at the next start. Published, it is not there.
        let _ = remove(&self.path);
    }
}

fn name(step: u64) -> String {
    format!("step-{step:08}")
}

fn remove(path: &Path) -> Result<()> {
    let result = match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    result.map_err(Error::io("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(store: &Store, step: u64, text: &str) -> Result<PathBuf> {
        store.save(step, |folder| write_synced(&folder.join("f"), text.as_bytes()))
    }

    #[test]
    fn whole_or_not_at_all() {
        let run = tempfile::tempdir().unwrap();
        let store = Store::of_run(run.path());
        assert!(store.steps().unwrap().is_empty());
        save(&store, 5, "five").unwrap();
        let failed = store.save(6, |folder| {
            write_synced(&folder.join("f"), b"half")?;
            Err(Error::Training("the disk is full".into()))
        });
        assert!(failed.is_err());
        assert_eq!(store.steps().unwrap(), [5]);
        // The same step again replaces it; one that fails leaves it.
        save(&store, 5, "again").unwrap();
        assert!(store.save(5, |_| Err(Error::Training("no".into()))).is_err());
        assert_eq!(std::fs::read_to_string(store.path(5).join("f")).unwrap(), "again");
        let left: Vec<_> = std::fs::read_dir(run.path().join(CHECKPOINTS)).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn pruning_keeps_what_is_asked_for() {
        let run = tempfile::tempdir().unwrap();
        let store = Store::of_run(run.path());
        for step in [100, 150, 200, 300, 400, 500] {
            save(&store, step, "").unwrap();
        }
        store.point("latest", 500).unwrap();
        store.point("best", 100).unwrap();
        store.prune(Keep { last: 2, every: Some(300), pinned: Some(200) }, Some(100)).unwrap();
        assert_eq!(store.steps().unwrap(), [100, 200, 300, 400, 500]);
        assert_eq!(
            (store.pointed("latest"), store.pointed("best"), store.pointed("none")),
            (Some(500), Some(100), None)
        );
    }

    #[test]
    fn sweeping_undoes_a_kill_between_two_renames() {
        let run = tempfile::tempdir().unwrap();
        let store = Store::of_run(run.path());
        save(&store, 7, "seven").unwrap();
        let folder = run.path().join(CHECKPOINTS);
        std::fs::rename(store.path(7), folder.join(".old-step-00000007")).unwrap();
        std::fs::create_dir(folder.join(".step-00000008")).unwrap();
        store.sweep().unwrap();
        assert_eq!(store.steps().unwrap(), [7]);
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
    }
}
