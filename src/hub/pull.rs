//! Models from the Hub: which files, from where, and what to do without a connection.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::answer::{About, Failure};
use super::cache::RepoCache;
use super::download::fetch;
use super::http::Client;
use super::remote::{self, Info, is_hash};
use super::repo::{Repo, is_safe_path, names_hub, no_such_path};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::ui::Ui;

/// What is wanted of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Weights, config and tokenizer.
    Model,
    /// The tokenizer's files alone.
    Tokenizer,
}

/// What a pull did.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The folder with the files.
    pub folder: PathBuf,
    /// The commit they are of.
    pub commit: String,
    /// The files, by path, sorted.
    pub files: Vec<String>,
    /// How many of them were fetched now; the others were in the cache.
    pub fetched: usize,
}

const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];
const MODEL_FILES: [&str; 3] = ["config.json", "generation_config.json", "README.md"];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The folder that `model` stands for: a path that exists stands for itself, `OWNER/NAME` for the model on the Hub, which
/// is fetched into the cache as far as it is not there. Anything else is given back as a path, for the caller to refuse.
///
/// # Errors
/// As [`pull`].
pub fn resolve(model: &str, ui: &dyn Ui) -> Result<PathBuf> {
    resolve_as(model, Want::Model, ui)
}

/// [`resolve`] for what only a tokenizer is wanted of.
///
/// # Errors
/// As [`pull`].
pub fn resolve_tokenizer(name: &str, ui: &dyn Ui) -> Result<PathBuf> {
    resolve_as(name, Want::Tokenizer, ui)
}

fn resolve_as(name: &str, want: Want, ui: &dyn Ui) -> Result<PathBuf> {
    if let Some(error) = no_such_path(name, "model", "taper pull") {
        return Err(error);
    }
    if !names_hub(name) {
        return Ok(PathBuf::from(name));
    }
    let pulled =
        pull(&Client::new(Settings::from_env()?), &Repo::model(name)?, want, ui).map_err(|error| match error {
            Error::Hub(message) => Error::Hub(format!("there is no folder {name} here, and {message}")),
            error => error,
        })?;
    Ok(pulled.folder)
}

/// Fetches a model, or its tokenizer, into the cache. Without a connection, or where `HF_HUB_OFFLINE` is set, what the
/// cache holds of the revision is taken, if it is complete.
///
/// # Errors
/// `Hub` if the repository is not there, not for us, has no safetensors weights, or the connection fails for good; `Io` if
/// the disk refuses.
pub fn pull(client: &Client, repo: &Repo, want: Want, ui: &dyn Ui) -> Result<Pulled> {
    let settings = client.settings();
    let cache = RepoCache::new(&settings.cache, repo);
    if settings.offline {
        return cached(&cache, want).ok_or_else(|| {
            Error::Hub(format!(
                "{repo} is not in the Hub's cache ({}) as a whole, and HF_HUB_OFFLINE forbids to fetch it; unset that, or name \
                 a local folder",
                settings.cache.display()
            ))
        });
    }
    // A commit never changes: what is here of it is right. (Someone else may have fetched it without its tokenizer.)
    if is_hash(repo.revision(), 40)
        && let Some(pulled) = cached(&cache, want)
        && pulled.files.iter().any(|file| file.starts_with("tokenizer"))
    {
        return Ok(pulled);
    }
    let has_token = settings.token.is_some();
    let info = match remote::info(client, repo) {
        Ok(info) => info,
        Err(failure) if failure.is_outage() => {
            let Some(pulled) = cached(&cache, want) else { return Err(failure.about(repo, has_token)) };
            let why: Error = failure.about(repo, has_token);
            ui.note(&format!("{why}; taking commit {} of {repo} from the cache", &pulled.commit[..7]));
            return Ok(pulled);
        }
        Err(failure) => return Err(failure.about(repo, has_token)),
    };
    tracing::debug!(%repo, commit = %info.sha, files = info.files.len(), "found on the Hub");
    fetch_all(client, &cache, repo, &info, want, ui).about(repo, has_token)
}

fn fetch_all(
    client: &Client,
    cache: &RepoCache,
    repo: &Repo,
    info: &Info,
    want: Want,
    ui: &dyn Ui,
) -> Result<Pulled, Failure> {
    let has = |name: &str| info.files.iter().any(|file| file == name);
    let mut files: Vec<String> = TOKENIZER_FILES.iter().filter(|name| has(name)).map(|name| name.to_string()).collect();
    let mut fetched = 0;
    let snapshot = cache.snapshot(&info.sha);
    if want == Want::Tokenizer && !files.iter().any(|file| matches!(file.as_str(), "tokenizer.json" | "vocab.json")) {
        return Err(Failure::Refused(format!("{repo} has no tokenizer.json, nor vocab.json with merges.txt")));
    }
    if want == Want::Model {
        // Refused before anything is fetched.
        check_weights(repo, info)?;
        files.extend(MODEL_FILES.iter().filter(|name| has(name)).map(|name| name.to_string()));
        if has(WEIGHTS) {
            files.push(WEIGHTS.into());
        } else {
            fetched += usize::from(fetch(client, cache, repo, &info.sha, INDEX, ui)?);
            let shards = shards(&snapshot.join(INDEX))?;
            if let Some(missing) = shards.iter().find(|shard| !has(shard)) {
                return Err(Failure::Refused(format!(
                    "{repo} is incomplete: {INDEX} names {missing}, which is not there"
                )));
            }
            files.push(INDEX.into());
            files.extend(shards);
        }
    }
    files.sort_unstable();
    // The weights last: what is wrong with the rest shows at once.
    let (weights, small): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.ends_with(".safetensors"));
    for file in small.into_iter().chain(weights) {
        fetched += usize::from(fetch(client, cache, repo, &info.sha, file, ui)?);
    }
    // Only now: who reads the reference finds everything that it leads to.
    cache.note_commit(&info.sha)?;
    Ok(Pulled { folder: snapshot, commit: info.sha.clone(), files, fetched })
}

/// Refuses what has no safetensors, and says why where there is a pickle.
fn check_weights(repo: &Repo, info: &Info) -> Result<(), Failure> {
    let has = |name: &str| info.files.iter().any(|file| file == name);
    if has("config.json") && (has(WEIGHTS) || has(INDEX)) {
        return Ok(());
    }
    let pickle = |file: &&String| [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|end| file.ends_with(end));
    let message = if info.files.is_empty() {
        format!("{repo} is empty")
    } else if !has("config.json") {
        format!("{repo} has no config.json, so it is not a transformers model; it holds {}", some(&info.files))
    } else if let Some(file) = info.files.iter().find(pickle) {
        format!(
            "{repo} has its weights only as {file}, a Python pickle. Reading one can run any program that its author put \
             there, so taper reads safetensors only. Ask its owner for model.safetensors, or convert it where that is safe: \
             in Python, load it with transformers and save_pretrained(FOLDER), then name that folder"
        )
    } else {
        format!("{repo} has no {WEIGHTS} (nor {INDEX}); it holds {}", some(&info.files))
    };
    Err(Failure::Refused(message))
}

fn some(files: &[String]) -> String {
    let more = if files.len() > 6 { format!(" and {} more", files.len() - 6) } else { String::new() };
    files.iter().take(6).map(String::as_str).collect::<Vec<_>>().join(", ") + &more
}

/// The files that an index names, sorted.
fn shards(index: &Path) -> Result<Vec<String>, Failure> {
    let wrong = |what: &str| Failure::Other(Error::data(index, what.to_string()));
    let text = std::fs::read_to_string(index).map_err(Error::io("read", index))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| wrong(&format!("this is not JSON: {error}")))?;
    let map = value["weight_map"].as_object().ok_or_else(|| wrong("it has no weight_map"))?;
    let mut files: Vec<String> = map.values().filter_map(|file| file.as_str()).map(String::from).collect();
    files.sort_unstable();
    files.dedup();
    if files.is_empty() || !files.iter().all(|file| is_safe_path(file) && file.ends_with(".safetensors")) {
        return Err(wrong("its weight_map names files that are no safetensors of this repository"));
    }
    Ok(files)
}

/// What the cache holds of the revision, if that is all.
fn cached(cache: &RepoCache, want: Want) -> Option<Pulled> {
    let commit = cache.known_commit()?;
    let folder = cache.snapshot(&commit);
    let has = |name: &str| folder.join(name).is_file();
    let names = TOKENIZER_FILES.iter().chain(&MODEL_FILES).chain(&[WEIGHTS, INDEX]);
    let mut files: Vec<String> = names.filter(|name| has(name)).map(|name| name.to_string()).collect();
    let tokenizer = has("tokenizer.json") || has("vocab.json") && has("merges.txt");
    if want == Want::Tokenizer && !tokenizer {
        return None;
    }
    if want == Want::Model {
        if !has("config.json") {
            return None;
        }
        if !has(WEIGHTS) {
            let shards = shards(&folder.join(INDEX)).ok()?;
            if !shards.iter().all(|shard| has(shard)) {
                return None;
            }
            files.extend(shards);
        }
    }
    files.sort_unstable();
    Some(Pulled { folder, commit, files, fetched: 0 })
}
