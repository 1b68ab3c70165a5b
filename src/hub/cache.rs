//! The cache that we share with the Python client.
//!
//! ```text
//! models--OWNER--NAME/refs/main                     the commit that a branch is at, as text
//!                     blobs/HASH                    contents, named by SHA-256 (LFS) or git's SHA-1
//!                     snapshots/COMMIT/config.json  a relative symbolic link to a blob (or a copy, where links cannot be)
//! .locks/models--OWNER--NAME/HASH.lock              held while a blob is fetched
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};

use super::remote::is_hash;
use super::repo::Repo;
use crate::error::{Error, Result};

/// One repository's folder in the cache.
#[derive(Clone, Debug)]
pub(super) struct RepoCache {
    repo: Repo,
    paths: std::sync::Arc<hf_hub::CacheRepo>,
    root: PathBuf,
}

impl RepoCache {
    /// The folder for a repository, which need not exist.
    pub fn new(root: &Path, repo: &Repo) -> RepoCache {
        let paths = hf_hub::Cache::new(root.to_path_buf()).repo(repo.for_cache());
        RepoCache { repo: repo.clone(), paths: paths.into(), root: root.to_path_buf() }
    }

    /// The blob of a hash.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.paths.blob_path(etag)
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, sha: &str) -> PathBuf {
        self.paths.pointer_path(sha)
    }

    /// The commit that the revision was last seen at.
    pub fn known_commit(&self) -> Option<String> {
        let revision = self.repo.revision();
        if is_hash(revision, 40) {
            return Some(revision.to_string());
        }
        let text = std::fs::read_to_string(self.reference()).ok()?;
        Some(text.trim().to_string()).filter(|sha| is_hash(sha, 40))
    }

    fn reference(&self) -> PathBuf {
        self.root.join(self.repo.for_cache().folder_name()).join("refs").join(self.repo.revision())
    }

    /// Notes the commit that the revision is at. Written aside and renamed: a reader sees the old or the new.
    pub fn note_commit(&self, sha: &str) -> Result<()> {
        if self.repo.revision() == sha || self.known_commit().as_deref() == Some(sha) {
            return Ok(());
        }
        let path = self.reference();
        let folder = path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io("write", folder))?;
        std::fs::write(file.path(), sha).map_err(Error::io("write", file.path()))?;
        file.persist(&path).map_err(|error| Error::io("write", &path)(error.error))?;
        Ok(())
    }

    /// Waits for and takes the lock of a blob; it is given back when the file is dropped.
    pub fn lock(&self, etag: &str) -> Result<File> {
        let folder = self.root.join(".locks").join(self.repo.for_cache().folder_name());
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let path = folder.join(format!("{etag}.lock"));
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = options.map_err(Error::io("write", &path))?;
        match file.lock() {
            Ok(()) => {}
            // Where the file system has no locks, a hash still guards every blob.
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(error) => return Err(Error::io("lock", &path)(error)),
        }
        Ok(file)
    }

    /// Makes a file of a commit point at its blob.
    pub fn link(&self, sha: &str, path: &str, etag: &str) -> Result<()> {
        let pointer = self.snapshot(sha).join(path);
        if pointer.exists() {
            return Ok(());
        }
        let folder = pointer.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        if pointer.symlink_metadata().is_ok() {
            // A link to a blob that someone removed.
            std::fs::remove_file(&pointer).map_err(Error::io("remove", &pointer))?;
        }
        let up = "../".repeat(path.split('/').count() + 1);
        if symlink(Path::new(&format!("{up}blobs/{etag}")), &pointer).is_err() && !pointer.exists() {
            let blob = self.blob(etag);
            let copy = tempfile::NamedTempFile::new_in(folder).map_err(Error::io("write", folder))?;
            std::fs::copy(&blob, copy.path()).map_err(Error::io("copy", &blob))?;
            copy.persist(&pointer).map_err(|error| Error::io("write", &pointer)(error.error))?;
        }
        Ok(())
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
