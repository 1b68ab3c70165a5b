//! What a repository holds at a revision, as the Hub tells it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::address::join;
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
    let (_, body) = client.json(&Request::new("GET", url))?;
    let sha = body["sha"].as_str().unwrap_or_default().to_string();
    if !is_hash(&sha, 40) {
        return Err(Failure::Refused(format!("the Hub does not say which commit {repo} is at")));
    }
    let names = body["siblings"].as_array().into_iter().flatten().filter_map(|file| file["rfilename"].as_str());
    let mut files: Vec<String> = names.map(String::from).collect();
    if files.is_empty() {
        // Large repositories leave the list out; the tree has it, page by page.
        files = entries(client, repo, &sha)?.into_iter().map(|entry| entry.path).collect();
    }
    files.retain(|path| is_safe_path(path));
    files.sort_unstable();
    files.dedup();
    Ok(Info { sha, files })
}

/// A file in the listing of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// SHA-256 of an LFS file, else git's SHA-1 of the blob; empty where the Hub does not say.
    pub oid: String,
}

/// All files at a commit, page by page.
pub(super) fn entries(client: &Client, repo: &Repo, sha: &str) -> Result<Vec<Entry>, Failure> {
    let mut next = Some(format!("{}/tree/{sha}?recursive=true", repo.api()));
    let (mut files, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some(url) = next {
        // A server that leads in circles is left at the first page that was there before.
        if !seen.insert(url.clone()) {
            return Err(Failure::Refused(format!("the listing of {repo} leads in circles")));
        }
        let (answer, body) = match client.json(&Request::new("GET", url)) {
            // A repository without a commit has no tree.
            Err(failure) if failure.status() == Some(404) && files.is_empty() => return Ok(files),
            answer => answer?,
        };
        next = answer.header("link").and_then(next_page).and_then(|next| join(&answer.url, &next));
        let listed = body.as_array().into_iter().flatten().filter(|entry| entry["type"] == "file");
        files.extend(listed.filter_map(|entry| {
            let oid = entry["lfs"]["oid"].as_str().or_else(|| entry["oid"].as_str()).unwrap_or_default();
            let size = entry["lfs"]["size"].as_u64().or_else(|| entry["size"].as_u64()).unwrap_or(0);
            Some(Entry { path: entry["path"].as_str()?.to_string(), size, oid: oid.to_ascii_lowercase() })
        }));
    }
    Ok(files)
}

/// The address of `<ADDRESS>; rel="next"` (RFC 8288); commas and semicolons within the brackets belong to the address.
fn next_page(link: &str) -> Option<String> {
    let mut rest = link;
    while let Some((_, from)) = rest.split_once('<') {
        let (address, after) = from.split_once('>')?;
        let (parameters, later) = match after.find('<') {
            Some(at) => after.split_at(at),
            None => (after, ""),
        };
        let is_next = |parameter: &str| {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim().trim_end_matches(',').trim().trim_matches('"');
            key.trim().eq_ignore_ascii_case("rel") && value.split(' ').any(|word| word.eq_ignore_ascii_case("next"))
        };
        if parameters.split(';').any(is_next) {
            return Some(address.to_string());
        }
        rest = later;
    }
    None
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
    let is_known = |etag: &str| is_hash(etag, 64) || is_hash(etag, 40);
    let etag = answer.header("x-linked-etag").or_else(|| answer.header("etag")).map(normalize).unwrap_or_default();
    if is_known(&etag) {
        return Ok(FileMeta { etag, size: size(&answer) });
    }
    // Something between the Hub and us has put an etag of its own there: the listing has the hash as well.
    match entries(client, repo, sha)?.into_iter().find(|entry| entry.path == path) {
        Some(entry) if is_known(&entry.oid) => Ok(FileMeta { etag: entry.oid, size: Some(entry.size) }),
        _ => unsound("has no hash to check the file against"),
    }
}

fn size(answer: &Answer) -> Option<u64> {
    // The length of a compressed body is not that of the file, and some servers answer HEAD with a length of 0.
    let plain = answer.status < 300 && answer.header("content-encoding").is_none_or(|encoding| encoding == "identity");
    let own = || answer.header("content-length").filter(|length| plain && length.trim() != "0");
    answer.header("x-linked-size").or_else(own)?.trim().parse().ok()
}

/// An etag without the marks around it: the sign of a weak one, quotes, and what servers append that compress.
fn normalize(etag: &str) -> String {
    let etag = etag.trim();
    let etag =
        etag.strip_prefix("W/").or(etag.strip_prefix("w/")).unwrap_or(etag).trim_matches('"').to_ascii_lowercase();
    match etag.find(|c: char| !c.is_ascii_hexdigit()) {
        Some(at) if matches!(&etag[at..], "-gzip" | "--gzip" | ";gzip" | ":gzip" | "-br" | "-zstd" | "-df") => {
            etag[..at].to_string()
        }
        _ => etag,
    }
}

/// The value of a key that must be a text.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, Failure> {
    value[key].as_str().ok_or_else(|| Failure::Refused(format!("the Hub's answer has no {key}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_and_links_as_servers_write_them() {
        let sha = "a".repeat(40);
        for etag in [
            format!("\"{sha}\""),
            format!("W/\"{sha}\""),
            format!("w/\"{}\"", sha.to_uppercase()),
            format!("\"{sha}-gzip\""),
            format!("W/\"{sha};gzip\""),
            sha.clone(),
        ] {
            assert_eq!(normalize(&etag), sha, "{etag}");
        }
        assert!(!is_hash(&normalize("\"d41d8cd98f00b204e9800998ecf8427e-7\""), 40));
        let cases = [
            ("<http://h/a?b=1,2>; rel=\"next\"", Some("http://h/a?b=1,2")),
            ("</p?c=1>; rel=prev, </p?c=3>; rel=next", Some("/p?c=3")),
            ("</p?c=3;d=<>; title=\"x\"; REL=\"Next\"", Some("/p?c=3;d=<")),
            ("</p>; rel=\"first\"", None),
            ("nonsense", None),
        ];
        for (link, expected) in cases {
            assert_eq!(next_page(link).as_deref(), expected, "{link}");
        }
    }
}
