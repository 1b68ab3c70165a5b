//! Names: of a repository, of a revision, of a file in it.

use std::path::Path;

use crate::error::{Error, Result};

/// A repository of the Hub at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    owner: String,
    name: String,
    revision: String,
    dataset: bool,
}

impl Repo {
    /// `OWNER/NAME` or `OWNER/NAME@REVISION`: a model; the revision is `main` if none is given.
    ///
    /// # Errors
    /// `Usage` if it is none.
    pub fn model(text: &str) -> Result<Repo> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let wrong = |what: &str| {
            Error::usage(format!(
                "{text:?} is not a repository of the Hub: {what}; expected OWNER/NAME, as in openai-community/gpt2"
            ))
        };
        let (owner, name) = id.split_once('/').ok_or_else(|| wrong("there is no slash in it"))?;
        for part in [owner, name] {
            if let Err(what) = check_part(part) {
                return Err(wrong(what));
            }
        }
        Repo { owner: owner.into(), name: name.into(), revision: String::new(), dataset: false }.at(revision)
    }

    /// `OWNER/NAME` as a data set.
    ///
    /// # Errors
    /// As [`Repo::model`].
    pub fn dataset(text: &str) -> Result<Repo> {
        Ok(Repo { dataset: true, ..Repo::model(text)? })
    }

    /// The same repository at another revision: a branch, a tag, a commit, or `refs/pr/N`.
    ///
    /// # Errors
    /// `Usage` if git allows no such name.
    pub fn at(mut self, revision: &str) -> Result<Repo> {
        let good = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
        let characters = revision.chars().all(|c| c.is_ascii_graphic() && !"~^:?*[\\@\"".contains(c));
        if !characters || revision.contains("..") || !revision.split('/').all(good) {
            return Err(Error::usage(format!("{revision:?} is not a revision: expected a branch, a tag or a commit")));
        }
        self.revision = revision.into();
        Ok(self)
    }

    /// The owner: a user or an organization.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The name without its owner.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `OWNER/NAME`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The revision as one component of a URL.
    pub(super) fn quoted_revision(&self) -> String {
        quote(&self.revision)
    }

    /// The path of the repository's API: `/api/models/OWNER/NAME`.
    pub(super) fn api(&self) -> String {
        format!("/api/{}/{}", self.plural(), self.id())
    }

    /// The path of the repository's pages: `/OWNER/NAME`, for data sets `/datasets/OWNER/NAME`.
    pub(super) fn page(&self) -> String {
        match self.dataset {
            true => format!("/datasets/{}", self.id()),
            false => format!("/{}", self.id()),
        }
    }

    /// `model` or `dataset`, as the API says it.
    pub(super) fn kind(&self) -> &'static str {
        if self.dataset { "dataset" } else { "model" }
    }

    fn plural(&self) -> &'static str {
        if self.dataset { "datasets" } else { "models" }
    }

    /// The same in the words of `hf_hub`, which knows the names of the cache's folders.
    pub(super) fn for_cache(&self) -> hf_hub::Repo {
        let kind = if self.dataset { hf_hub::RepoType::Dataset } else { hf_hub::RepoType::Model };
        hf_hub::Repo::with_revision(self.id(), kind, self.revision.clone())
    }
}

impl std::fmt::Display for Repo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            "main" => write!(f, "{}/{}", self.owner, self.name),
            revision => write!(f, "{}/{}@{revision}", self.owner, self.name),
        }
    }
}

/// The Hub's rules for a name, which both of its parts obey.
fn check_part(part: &str) -> Result<(), &'static str> {
    if part.is_empty() || part.len() > 96 {
        return Err("a name has 1 to 96 characters");
    }
    if !part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        return Err("a name is made of letters, digits, '-', '_' and '.'");
    }
    if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) || part.contains("--") || part.contains("..") {
        return Err("a name neither starts nor ends with '-' or '.', and has no '--' or '..'");
    }
    if part.ends_with(".git") {
        return Err("a name does not end in .git");
    }
    Ok(())
}

/// Whether a text reads `OWNER/NAME` or `OWNER/NAME@REVISION`.
pub fn is_hub_name(text: &str) -> bool {
    Repo::model(text).is_ok()
}

/// Endings of files that people train on: what ends so is meant as a path, though it may read like a name of the Hub.
const FILE_ENDINGS: [&str; 11] =
    [".txt", ".md", ".jsonl", ".json", ".parquet", ".bin", ".gz", ".zst", ".toml", ".safetensors", ".gguf"];

/// Whether a text means a repository of the Hub and not a path: it reads `OWNER/NAME`, nothing of that name is here, there
/// is no folder OWNER that it could be a mistyped path in, and it does not end like a file.
pub fn names_hub(text: &str) -> bool {
    let owner = text.split('/').next().unwrap_or_default();
    let is_file = FILE_ENDINGS.iter().any(|end| text.ends_with(end));
    is_hub_name(text) && !is_file && !Path::new(text).exists() && !Path::new(owner).is_dir()
}

/// The message for a path that is not there although it reads like a name of the Hub, with both readings; `None` where
/// there is but one. `what` is "model" or "data set", `pull` the command that fetches it.
pub fn no_such_path(text: &str, what: &str, pull: &str) -> Option<Error> {
    if !is_hub_name(text) || Path::new(text).exists() || names_hub(text) {
        return None;
    }
    let owner = text.split('/').next().unwrap_or_default();
    let why = match Path::new(owner).is_dir() {
        true => format!("because there is a folder {owner} here"),
        false => "because it ends like a file".into(),
    };
    Some(Error::usage(format!(
        "there is no {text} here. It was read as a path, {why}; if the {what} {text} on the Hub is meant, fetch it by \
         `{pull} {text}` and give the folder that this prints"
    )))
}

/// Percent-encodes everything but letters, digits, and `-_.~`, so that the result is one component of a URL.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => quoted.push(char::from(byte)),
            _ => quoted += &format!("%{byte:02X}"),
        }
    }
    quoted
}

/// [`quote`] for a path: its slashes stay.
pub(super) fn quote_path(path: &str) -> String {
    path.split('/').map(quote).collect::<Vec<_>>().join("/")
}

/// Whether a file's path in a repository is one that may be written to disk or sent to the Hub: relative, with plain
/// components, none of them `..`, `.git` or `.cache`.
pub(super) fn is_safe_path(path: &str) -> bool {
    let good = |part: &str| !part.is_empty() && !matches!(part, "." | ".." | ".git" | ".cache");
    !path.contains(['\\', '\0', ':']) && !path.chars().any(char::is_control) && path.split('/').all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["openai-community/gpt2", "a/b.c_d-e", "HuggingFaceTB/SmolLM2-135M@v1.0", "a/b@refs/pr/1"] {
            assert!(is_hub_name(good), "{good}");
        }
        for bad in [
            "gpt2", "a/b/c", "./run", "../run", "runs/", "/run", "a/b--c", "a/.b", "a/b.git", "a b/c", "a/b@",
            "a/b@x..y",
        ] {
            assert!(!is_hub_name(bad), "{bad}");
        }
        let repo = Repo::model("a/b@refs/pr/1").unwrap();
        assert_eq!((repo.quoted_revision().as_str(), repo.api().as_str()), ("refs%2Fpr%2F1", "/api/models/a/b"));
        assert_eq!(Repo::dataset("a/b").unwrap().page(), "/datasets/a/b");
        assert_eq!((repo.to_string(), Repo::model("a/b").unwrap().to_string()), ("a/b@refs/pr/1".into(), "a/b".into()));
    }

    #[test]
    fn paths() {
        assert_eq!(quote_path("a b/ä%.txt"), "a%20b/%C3%A4%25.txt");
        assert!(is_safe_path("training/state.json") && is_safe_path(".gitattributes") && is_safe_path("a..b"));
        for bad in ["", "/etc", "a//b", "../a", "a/..", ".git/config", "a/.cache/b", "a\\b", "c:x", "a/./b", "a\nb"] {
            assert!(!is_safe_path(bad), "{bad:?}");
        }
    }
}
