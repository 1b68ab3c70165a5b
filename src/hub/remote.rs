//! What a repository holds at a revision, as the Hub tells it.

use serde_json::Value;

use super::answer::{Answer, Failure};
use super::http::{Client, Follow, Request};
use super::repo::{Repo, is_safe_path, quote_path};

/// A repository at a commit.
#[derive(Clone, Debug)]
pub(super) struct Info {
    /// The commit: 40 hexadecimal digits.
    pub sha: String,
    /// The paths of its files.
    pub files: Vec<String>,
}

/// What a HEAD request says about a file.
#[derive(Clone, Debug)]
pub(super) struct FileMeta {
    /// SHA-256 (64 hexadecimal digits) of an LFS file, else git's SHA-1 of a blob (40).
    pub etag: String,
    /// In bytes, where the Hub says so.
    pub size: Option<u64>,
}

/// What the cache's folders are named after must not lead out of them.
pub(super) fn is_hash(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The repository at its revision.
pub(super) fn info(client: &Client, repo: &Repo) -> Result<Info, Failure> {
    let url = format!("{}/revision/{}", repo.api(), repo.quoted_revision());
    let body = client.send(&Request::new("GET", url))?.json()?;
    let sha = body["sha"].as_str().unwrap_or_default().to_string();
    if !is_hash(&sha, 40) {
        return Err(Failure::Refused(format!("the Hub does not say which commit {repo} is at")));
    }
    let names = body["siblings"].as_array().into_iter().flatten().filter_map(|file| file["rfilename"].as_str());
    let mut files: Vec<String> = names.map(String::from).collect();
    if files.is_empty() {
        // Large repositories leave the list out; the tree has it, page by page.
        files = tree(client, repo, &sha)?;
    }
    files.retain(|path| is_safe_path(path));
    files.sort_unstable();
    files.dedup();
    Ok(Info { sha, files })
}

/// The paths of all files at a commit.
fn tree(client: &Client, repo: &Repo, sha: &str) -> Result<Vec<String>, Failure> {
    let mut next = Some(format!("{}/tree/{sha}?recursive=true", repo.api()));
    let mut files = Vec::new();
    // A server that leads in circles ends here, far beyond any repository.
    for _ in 0..10_000 {
        let Some(url) = next else { return Ok(files) };
        let answer = match client.send(&Request::new("GET", url)) {
            // A repository without a commit has no tree.
            Err(failure) if failure.status() == Some(404) && files.is_empty() => return Ok(files),
            answer => answer?,
        };
        next = answer.header("link").and_then(next_page);
        let body = answer.json()?;
        let entries = body.as_array().into_iter().flatten();
        let paths = entries.filter(|entry| entry["type"] == "file").filter_map(|entry| entry["path"].as_str());
        files.extend(paths.map(String::from));
    }
    Err(Failure::Refused(format!("the listing of {repo} has no end")))
}

/// The address of `<ADDRESS>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let one = link.split(',').find(|one| one.contains("rel=\"next\""))?;
    Some(one.split_once('<')?.1.split_once('>')?.0.to_string())
}

/// The address of a file at a commit.
pub(super) fn resolve_url(repo: &Repo, sha: &str, path: &str) -> String {
    format!("{}/resolve/{sha}/{}", repo.page(), quote_path(path))
}

/// Size and hash of a file at a commit.
pub(super) fn file_meta(client: &Client, repo: &Repo, sha: &str, path: &str) -> Result<FileMeta, Failure> {
    let mut request = Request::new("HEAD", resolve_url(repo, sha, path)).header("accept-encoding", "identity");
    request.follow = Follow::OwnOrigin;
    let answer = client.send(&request)?;
    let unsound = |what: &str| Err(Failure::Refused(format!("the Hub's answer about {path} of {repo} {what}")));
    match answer.header("x-repo-commit") {
        Some(commit) if commit == sha => {}
        Some(_) => return unsound("is about another commit than was asked for"),
        None => return unsound("names no commit: is this a Hub? See HF_ENDPOINT and the proxy"),
    }
    let etag = answer.header("x-linked-etag").or_else(|| answer.header("etag")).map(normalize).unwrap_or_default();
    if !is_hash(&etag, 64) && !is_hash(&etag, 40) {
        return unsound("has no hash to check the file against");
    }
    Ok(FileMeta { etag, size: size(&answer) })
}

fn size(answer: &Answer) -> Option<u64> {
    let own = || answer.header("content-length").filter(|_| answer.status < 300);
    answer.header("x-linked-size").or_else(own)?.trim().parse().ok()
}

/// An etag without the marks around it.
fn normalize(etag: &str) -> String {
    etag.trim().trim_start_matches("W/").trim_matches('"').to_ascii_lowercase()
}

/// The value of a key that must be a text.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, Failure> {
    value[key].as_str().ok_or_else(|| Failure::Refused(format!("the Hub's answer has no {key}")))
}
