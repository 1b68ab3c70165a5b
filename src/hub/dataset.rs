//! Data sets from the Hub: which of a repository's files are a split's text, and those files in the cache.
//!
//! A data set on the Hub is a folder of files with no index that says what is what. The rules here are those by which most
//! are laid out: a split's name stands in the file's path (`data/train-00000-of-00002.parquet`, `TinyStories-valid.txt`),
//! and where no path names a split, all is training data (`sample/10BT/000_00000.parquet`). One kind of file is taken, the
//! first there is of Parquet, JSON lines, text and ready token shards; `files` decides where these rules are wrong.

use globset::GlobBuilder;

use super::Progress;
use super::answer::About;
use super::cache::RepoCache;
use super::download::fetch;
use super::http::Client;
use super::pull::Pulled;
use super::remote;
use super::repo::Repo;
use crate::error::{Error, Result};

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

/// Fetches a split's files into the cache and gives their paths in the snapshot's folder.
///
/// # Errors
/// `Hub` as [`super::pull`], or if no file fits, with what there is; `Usage` for a pattern that is none.
pub fn pull_dataset(client: &Client, repo: &Repo, selection: &Selection, progress: &dyn Progress) -> Result<Pulled> {
    let settings = client.settings();
    let cache = RepoCache::new(&settings.cache, repo);
    if settings.offline {
        let folder = cache.known_commit().map(|commit| cache.snapshot(&commit));
        let place = folder
            .filter(|folder| folder.is_dir())
            .map_or(String::new(), |folder| format!("; what was fetched earlier is in {}", folder.display()));
        return Err(Error::Hub(format!("HF_HUB_OFFLINE is set, so {repo} cannot be listed{place}")));
    }
    let has_token = settings.token.is_some();
    let info = remote::info(client, repo).about(repo, has_token)?;
    let files = select(&info.files, selection)?;
    if files.is_empty() {
        return Err(Error::Hub(nothing(repo, &info.files, selection)));
    }
    let mut fetched = 0;
    for file in &files {
        fetched += usize::from(fetch(client, &cache, repo, &info.sha, file, progress).about(repo, has_token)?);
    }
    cache.note_commit(&info.sha)?;
    Ok(Pulled { folder: cache.snapshot(&info.sha), commit: info.sha, files, fetched })
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
