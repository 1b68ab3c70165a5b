//! What a push would send: the files of a folder, next to what the Hub has of them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::answer::Failure;
use super::download::{git_sha1_of, sha256_of};
use super::http::{Client, Request};
use super::remote::{Info, text};
use super::repo::{Repo, is_safe_path};
use crate::error::{Error, Result};

/// How to push.
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// A repository that has to be made is made private.
    pub private: bool,
    /// Open a pull request instead of committing to the branch.
    pub pr: bool,
    /// Send the training state along.
    pub with_state: bool,
    /// The commit's first line; without one it names the folder.
    pub message: Option<String>,
    /// A folder whose files go up in place of the model folder's own, or besides them.
    pub overlay: Option<PathBuf>,
}

/// Files of one question about upload modes, and objects of one LFS batch.
pub(super) const BATCH: usize = 256;

/// The folder of a checkpoint that holds its training state.
const STATE: &str = "training";

/// The way in which a file is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// Within the commit.
    Regular,
    /// To the large file storage, by its SHA-256.
    Lfs,
}

/// A file of the folder.
#[derive(Clone, Debug)]
pub struct PlannedFile {
    /// Its path in the repository.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// How it is sent.
    pub upload: Upload,
    /// The Hub has these very bytes under this path already.
    pub unchanged: bool,
    /// The repository's `.gitignore` names it, so it is not sent.
    pub ignored: bool,
    /// Where its bytes are.
    pub local: PathBuf,
    /// SHA-256 for LFS, git's SHA-1 otherwise.
    pub(super) oid: String,
    /// What the Hub has under this path.
    pub(super) remote: Option<String>,
}

impl PlannedFile {
    /// Whether it goes over the wire.
    pub fn is_sent(&self) -> bool {
        !self.unchanged && !self.ignored
    }
}

/// What a push would do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The model folder that is pushed.
    pub folder: PathBuf,
    /// The folder's files, by path.
    pub files: Vec<PlannedFile>,
    /// Weights on the Hub that the folder does not have: they would be loaded in place of the new ones, so they go.
    pub deleted: Vec<String>,
    /// Whether the repository is there.
    pub exists: bool,
}

impl Plan {
    /// Whether there is anything to commit.
    pub fn is_empty(&self) -> bool {
        self.deleted.is_empty() && !self.files.iter().any(PlannedFile::is_sent)
    }

    /// Bytes of the files that are sent.
    pub fn bytes(&self) -> u64 {
        self.files.iter().filter(|file| file.is_sent()).map(|file| file.size).sum()
    }
}

/// The files of a model folder, by path, with neither hash nor answer yet. The training state is left out unless asked for;
/// so are `.git` and `.cache` folders, which the Hub takes from nobody.
///
/// # Errors
/// `Usage` if the folder is no model or a name cannot be sent; `Io` if it cannot be read.
pub(super) fn local_files(folder: &Path, with_state: bool) -> Result<Vec<PlannedFile>> {
    let files = walk(folder, with_state)?;
    if !files.iter().any(|file| ["config.json", "adapter_config.json"].contains(&file.path.as_str())) {
        return Err(Error::usage(format!("{} is no model folder: it has no config.json", folder.display())));
    }
    Ok(files)
}

/// [`local_files`] of the folder and of what the options lay over it.
///
/// # Errors
/// As [`local_files`].
pub(super) fn files_to_push(folder: &Path, options: &PushOptions) -> Result<Vec<PlannedFile>> {
    let mut files = local_files(folder, options.with_state)?;
    if let Some(overlay) = &options.overlay {
        let over = walk(overlay, true)?;
        files.retain(|file| !over.iter().any(|other| other.path == file.path));
        files.extend(over);
        files.sort_by(|a, b| a.path.cmp(&b.path));
    }
    Ok(files)
}

fn walk(folder: &Path, with_state: bool) -> Result<Vec<PlannedFile>> {
    let mut files = Vec::new();
    let walk = walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter();
    let skipped = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().to_string_lossy();
        let state = entry.depth() == 1 && name == STATE && !with_state;
        entry.depth() > 0 && entry.file_type().is_dir() && (state || name == ".git" || name == ".cache")
    };
    for entry in walk.filter_entry(|entry| !skipped(entry)) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(folder).to_path_buf();
            Error::io("read", path)(
                error.into_io_error().unwrap_or_else(|| std::io::Error::other("links lead in a circle")),
            )
        })?;
        if !entry.file_type().is_file() {
            continue;
        }
        let relative = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        let path = relative.to_str().map(|path| path.replace(std::path::MAIN_SEPARATOR, "/"));
        let Some(path) = path.filter(|path| is_safe_path(path)) else {
            return Err(Error::usage(format!(
                "{}: the Hub takes no file of this name; rename or remove it",
                entry.path().display()
            )));
        };
        let size = entry.metadata().map_err(|error| Error::io("read", entry.path())(error.into()))?.len();
        files.push(PlannedFile {
            path,
            size,
            upload: Upload::Regular,
            unchanged: false,
            ignored: false,
            local: entry.path().to_path_buf(),
            oid: String::new(),
            remote: None,
        });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Asks the Hub how each file is to be sent, and what it has under its path already; fills that in, with the hashes.
pub(super) fn ask(client: &Client, repo: &Repo, pr: bool, files: &mut [PlannedFile]) -> Result<(), Failure> {
    let ignore = match files.iter().find(|file| file.path == ".gitignore") {
        Some(file) => Some(std::fs::read_to_string(&file.local).map_err(Error::io("read", &file.local))?),
        None => None,
    };
    let query = if pr { "?create_pr=1" } else { "" };
    let url = format!("{}/preupload/{}{query}", repo.api(), repo.quoted_revision());
    for batch in files.chunks_mut(BATCH) {
        let mut asked = Vec::new();
        for file in batch.iter() {
            asked.push(json!({"path": file.path, "size": file.size, "sample": STANDARD.encode(sample(&file.local)?)}));
        }
        let mut body = json!({ "files": asked });
        if let Some(ignore) = &ignore {
            body["gitIgnore"] = json!(ignore);
        }
        let (_, answer) = client.json(&Request::json(&*url, body.to_string().as_bytes()))?;
        let answers = answer["files"].as_array().cloned().unwrap_or_default();
        for file in batch {
            let about = answers.iter().find(|answer| answer["path"] == *file.path);
            take(
                file,
                about.ok_or_else(|| Failure::Refused(format!("the Hub does not say how to send {}", file.path)))?,
            )?;
        }
    }
    Ok(())
}

fn take(file: &mut PlannedFile, answer: &Value) -> Result<(), Failure> {
    file.ignored = answer["shouldIgnore"].as_bool().unwrap_or(false);
    file.upload = match (text(answer, "uploadMode")?, file.size) {
        // Storage takes no empty objects.
        (_, 0) | ("regular", _) => Upload::Regular,
        // Where the Hub would rather have Xet it still takes LFS.
        ("lfs" | "xet", _) => Upload::Lfs,
        (other, _) => {
            return Err(Failure::Refused(format!(
                "the Hub wants {} sent as {other:?}, which is unknown here",
                file.path
            )));
        }
    };
    file.remote = answer["oid"].as_str().map(String::from);
    if file.ignored {
        return Ok(());
    }
    let read = |error| Failure::Other(Error::io("read", &file.local)(error));
    let mut open = File::open(&file.local).map_err(read)?;
    file.oid = match file.upload {
        Upload::Regular => git_sha1_of(&mut open, file.size),
        Upload::Lfs => sha256_of(&mut open),
    }
    .map_err(read)?;
    file.unchanged = file.remote.as_deref() == Some(&file.oid);
    Ok(())
}

/// The first 512 bytes, from which the Hub tells text from binary.
fn sample(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(512).read_to_end(&mut bytes)).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// Weights at the Hub's head that are not among ours: other shards, or one file where there are shards now.
pub(super) fn stale_weights(info: &Info, files: &[PlannedFile]) -> Vec<String> {
    let is_ours = |path: &String| files.iter().any(|file| file.path == **path && !file.ignored);
    let is_weights = |path: &&String| {
        !path.contains('/')
            && path.starts_with("model")
            && (path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json"))
    };
    // Without weights of our own, theirs are none of our business.
    if !files.iter().any(|file| file.path.ends_with(".safetensors") && !file.ignored) {
        return Vec::new();
    }
    info.files.iter().filter(is_weights).filter(|path| !is_ours(path)).cloned().collect()
}
