//! Data sets from the Hub: which of a repository's files are a split's text, and those files in the cache.
//!
//! A data set on the Hub is a folder of files with no index that says what is what. The rules here are those by which most
//! are laid out: a split's name stands in the file's path (`data/train-00000-of-00002.parquet`, `TinyStories-valid.txt`),
//! and where no path names a split, all is training data (`sample/10BT/000_00000.parquet`). One kind of file is taken, the
//! first there is of Parquet, JSON lines, text and ready token shards; `files` decides where these rules are wrong.

use std::path::Path;

use globset::GlobBuilder;

use super::answer::About;
use super::cache::RepoCache;
use super::download::fetch;
use super::http::Client;
use super::pull::Pulled;
use super::remote;
use super::repo::{Repo, is_safe_path};
use super::stream::Stream;
use crate::data::Source;
use crate::error::{Error, Result};
use crate::ui::Ui;

/// Which files are wanted.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The split's name.
    pub split: String,
    /// Only files in this folder of the repository.
    pub folder: Option<String>,
    /// Only files whose path matches this pattern; then neither split nor kind is guessed.
    pub files: Option<String>,
    /// At most so many files, in the order of their paths.
    pub limit: Option<usize>,
}

/// Kinds of files, the better one first.
const KINDS: [&[&str]; 4] =
    [&[".parquet"], &[".jsonl", ".jsonl.gz", ".jsonl.zst"], &[".txt", ".txt.gz", ".txt.zst"], &[".bin"]];

/// Other words for a split in the names of files.
const SPLITS: [&[&str]; 3] =
    [&["train", "training"], &["validation", "valid", "val", "dev", "eval"], &["test", "testing"]];

/// Fetches a split's files into the cache and gives their paths in the snapshot's folder. Offline, the files are those that
/// the cache has.
///
/// # Errors
/// `Hub` as [`super::pull`], or if no file fits, with what there is; `Usage` for a pattern that is none.
pub fn pull_dataset(client: &Client, repo: &Repo, selection: &Selection, ui: &dyn Ui) -> Result<Pulled> {
    let settings = client.settings();
    let cache = RepoCache::new(&settings.cache, repo);
    if settings.offline {
        return cached(&cache, repo, selection, ui);
    }
    let has_token = settings.token.is_some();
    let info = remote::info(client, repo).about(repo, has_token)?;
    let files = selected(repo, &info.files, selection)?;
    let mut fetched = 0;
    for file in &files {
        fetched += usize::from(fetch(client, &cache, repo, &info.sha, file, ui).about(repo, has_token)?);
    }
    cache.note_commit(&info.sha)?;
    Ok(Pulled { folder: cache.snapshot(&info.sha), commit: info.sha, files, fetched })
}

/// What the cache has of a selection. There is no telling whether that is all, so it is said how much it is.
fn cached(cache: &RepoCache, repo: &Repo, selection: &Selection, ui: &dyn Ui) -> Result<Pulled> {
    let commit = cache.known_commit().filter(|commit| cache.snapshot(commit).is_dir()).ok_or_else(|| {
        Error::Hub(format!("HF_HUB_OFFLINE is set, and nothing of the data set {repo} is in the cache; unset it"))
    })?;
    let folder = cache.snapshot(&commit);
    let walk = walkdir::WalkDir::new(&folder).follow_links(true).into_iter().flatten();
    let there = walk.filter(|entry| entry.file_type().is_file()).filter_map(|entry| {
        Some(entry.path().strip_prefix(&folder).ok()?.to_str()?.replace(std::path::MAIN_SEPARATOR, "/"))
    });
    let files = selected(repo, &there.collect::<Vec<_>>(), selection)?;
    ui.note(&format!("HF_HUB_OFFLINE is set: taking the {} files of {repo} that are in the cache", files.len()));
    Ok(Pulled { folder, commit, files, fetched: 0 })
}

/// A split's files as sources of a preparation that are fetched one after the other, when their turn comes.
#[derive(Clone, Debug)]
pub struct Streamed {
    /// The commit they are of.
    pub commit: String,
    /// The sources of each selection, in its order.
    pub sources: Vec<Vec<Source>>,
}

/// Lists splits for a preparation that streams them: each file is fetched into `spool` when its turn comes, the one after
/// it meanwhile, and removed when it was read. So the disk holds two files at most; each is whole and checked before a
/// byte of it is used, and one that broke off continues where it was. A file that the cache has is read from there.
///
/// # Errors
/// As [`pull_dataset`]; `Usage` for token shards, which need no preparation.
pub fn stream_dataset(client: Client, repo: &Repo, selections: &[Selection], spool: &Path) -> Result<Streamed> {
    let has_token = client.settings().token.is_some();
    if client.settings().offline {
        return Err(Error::Hub(format!("HF_HUB_OFFLINE is set, so the data set {repo} cannot be streamed; unset it")));
    }
    let info = remote::info(&client, repo).about(repo, has_token)?;
    let entries = remote::entries(&client, repo, &info.sha).about(repo, has_token)?;
    let paths: Vec<String> = entries.iter().map(|entry| entry.path.clone()).filter(|path| is_safe_path(path)).collect();
    let mut lists = Vec::new();
    for selection in selections {
        lists.push(selected(repo, &paths, selection)?);
    }
    if let Some(shard) = lists.iter().flatten().find(|path| path.ends_with(".bin")) {
        return Err(Error::usage(format!(
            "{repo} holds tokens already ({shard}): leave --tokenizer and --out out, and train on the folder that is printed"
        )));
    }
    let all = lists.iter().flatten().filter_map(|path| entries.iter().find(|entry| entry.path == *path));
    let stream = Stream::new(client, repo, &info.sha, all.cloned().collect(), spool);
    let (mut sources, mut index) = (Vec::new(), 0);
    for list in &lists {
        let mut split = Vec::new();
        for path in list {
            split.push(stream.source(index, &format!("{}/{path}", repo.id()))?);
            index += 1;
        }
        sources.push(split);
    }
    Ok(Streamed { commit: info.sha, sources })
}

/// The files of a selection, of which there is at least one.
fn selected(repo: &Repo, there: &[String], selection: &Selection) -> Result<Vec<String>> {
    let files = select(there, selection)?;
    match files.is_empty() {
        true => Err(Error::Hub(nothing(repo, there, selection))),
        false => Ok(files),
    }
}

/// The files of a selection, sorted.
fn select(files: &[String], selection: &Selection) -> Result<Vec<String>> {
    let inside = |path: &&String| match selection.folder.as_deref().map(|folder| folder.trim_matches('/')) {
        Some(folder) if !folder.is_empty() => path.starts_with(&format!("{folder}/")),
        _ => true,
    };
    let mut found: Vec<String> = files.iter().filter(inside).cloned().collect();
    match &selection.files {
        Some(pattern) => {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            let glob = glob.map_err(|error| Error::usage(format!("--files: {error}")))?.compile_matcher();
            found.retain(|path| glob.is_match(path));
        }
        None => {
            let kind = KINDS.iter().find(|kind| found.iter().any(|path| is_of(path, kind)));
            found.retain(|path| kind.is_some_and(|kind| is_of(path, kind)));
            let named = found.iter().any(|path| split_of(path, &selection.split).is_some());
            let wanted = canonical(&selection.split);
            found.retain(|path| match split_of(path, &selection.split) {
                Some(split) => split == wanted,
                None => !named && wanted == "train",
            });
        }
    }
    found.sort_unstable();
    found.truncate(selection.limit.unwrap_or(usize::MAX));
    Ok(found)
}

fn is_of(path: &str, kind: &[&str]) -> bool {
    kind.iter().any(|end| path.ends_with(end))
}

fn canonical(split: &str) -> &str {
    SPLITS.iter().find(|words| words.contains(&split)).map_or(split, |words| words[0])
}

/// The split that a path names: one of the usual ones, or the one asked for.
fn split_of<'a>(path: &'a str, asked: &str) -> Option<&'a str> {
    let words = || path.split(|c: char| !c.is_alphanumeric());
    // The last word counts: it is nearest to the file itself.
    words().rfind(|word| *word == asked || SPLITS.iter().any(|split| split.contains(word))).map(canonical)
}

fn nothing(repo: &Repo, files: &[String], selection: &Selection) -> String {
    let data: Vec<&str> =
        files.iter().filter(|path| KINDS.iter().any(|kind| is_of(path, kind))).map(String::as_str).collect();
    if data.is_empty() {
        return format!("{repo} has no Parquet, JSON lines, text or .bin files");
    }
    let more = if data.len() > 8 { format!(" and {} more", data.len() - 8) } else { String::new() };
    format!(
        "{repo} has no files for the split {:?}{}; it has {}{more}. Name them by --files PATTERN",
        selection.split,
        selection.folder.as_ref().map_or(String::new(), |folder| format!(" in {folder}")),
        data[..data.len().min(8)].join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(files: &[&str], split: &str, folder: Option<&str>, pattern: Option<&str>) -> Vec<String> {
        let files: Vec<String> = files.iter().map(|file| file.to_string()).collect();
        let text = |text: Option<&str>| text.map(String::from);
        let selection = Selection { split: split.into(), folder: text(folder), files: text(pattern), limit: None };
        select(&files, &selection).unwrap()
    }

    /// The layouts are those of the data sets on the Hub that the issue names.
    #[test]
    fn layouts_on_the_hub() {
        let stories = [
            "TinyStories-train.txt",
            "TinyStories-valid.txt",
            "data/train-00000-of-00002-2d5a1467fff1081b.parquet",
            "data/train-00001-of-00002-5852b56a2bd28fd9.parquet",
            "data/validation-00000-of-00001-869c898b519ad725.parquet",
            "README.md",
        ];
        assert_eq!(selected(&stories, "train", None, None), stories[2..4]);
        for word in ["validation", "valid", "val"] {
            assert_eq!(selected(&stories, word, None, None), stories[4..5]);
        }
        assert_eq!(selected(&stories, "train", None, Some("*-train.txt")), stories[..1]);
        assert!(selected(&stories, "test", None, None).is_empty());

        let fineweb = [
            "data/CC-MAIN-2013-20/000_00000.parquet",
            "sample/10BT/000_00000.parquet",
            "sample/10BT/001_00000.parquet",
        ];
        assert_eq!(selected(&fineweb, "train", Some("sample/10BT"), None), fineweb[1..]);
        assert_eq!(selected(&fineweb, "train", None, None).len(), 3);
        assert!(selected(&fineweb, "validation", None, None).is_empty());

        let shards = ["fineweb_train_000001.bin", "fineweb_train_000002.bin", "fineweb_val_000000.bin"];
        assert_eq!(selected(&shards, "train", None, None), shards[..2]);
        assert_eq!(selected(&shards, "val", None, None), shards[2..]);

        let openwebtext = ["plain_text/train-00000-of-00080.parquet", "openwebtext.py"];
        assert_eq!(selected(&openwebtext, "train", None, None), openwebtext[..1]);
    }
}
