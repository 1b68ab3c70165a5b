//! One file, fetched whole or not at all.
//!
//! Bytes go to `blobs/HASH.incomplete`, and a connection that breaks is taken up where it broke off, by `Range`, now or at
//! the next call. The blob gets its name when its size and hash are right: SHA-256 for what is in LFS, git's SHA-1 of a
//! blob otherwise. Neither the body of an error nor a flipped bit can become a model.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::answer::{Answer, Failure};
use super::cache::RepoCache;
use super::http::{Client, Request, Tries};
use super::remote::{FileMeta, file_meta, resolve_url};
use super::repo::Repo;
use crate::error::Error;
use crate::ui::{Silent, Ui};

/// Whole downloads that may turn out damaged before we give up.
const DAMAGED: u32 = 3;

/// Makes sure that a file of a commit is in the cache, and linked; says whether bytes were fetched.
pub(super) fn fetch(
    client: &Client,
    cache: &RepoCache,
    repo: &Repo,
    sha: &str,
    path: &str,
    ui: &dyn Ui,
) -> Result<bool, Failure> {
    if cache.snapshot(sha).join(path).is_file() {
        return Ok(false);
    }
    let meta = file_meta(client, repo, sha, path)?;
    let _lock = cache.lock(&meta.etag)?;
    let blob = cache.blob(&meta.etag);
    let mut fetched = false;
    if !blob.is_file() {
        let folder = blob.parent().unwrap_or(&blob);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let incomplete = folder.join(format!("{}.incomplete", meta.etag));
        let url = resolve_url(repo, sha, path);
        ui.begin(path, 0, meta.size);
        let result = whole(client, &url, path, &meta, &incomplete, ui);
        ui.end();
        result?;
        std::fs::rename(&incomplete, &blob).map_err(Error::io("rename", &incomplete))?;
        fetched = true;
    }
    cache.link(sha, path, &meta.etag)?;
    Ok(fetched)
}

/// Fetches a file of a commit to a place of its own, outside the cache; what is there already has been checked.
pub(super) fn fetch_apart(client: &Client, repo: &Repo, sha: &str, path: &str, target: &Path) -> Result<(), Failure> {
    if target.is_file() {
        return Ok(());
    }
    let folder = target.parent().unwrap_or(target);
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let meta = file_meta(client, repo, sha, path)?;
    let mut incomplete = target.as_os_str().to_owned();
    incomplete.push(".incomplete");
    let incomplete = Path::new(&incomplete);
    whole(client, &resolve_url(repo, sha, path), path, &meta, incomplete, &Silent)?;
    std::fs::rename(incomplete, target).map_err(Error::io("rename", incomplete))?;
    Ok(())
}

/// Fetches until size and hash are right.
fn whole(
    client: &Client,
    url: &str,
    name: &str,
    meta: &FileMeta,
    incomplete: &Path,
    ui: &dyn Ui,
) -> Result<(), Failure> {
    let options = File::options().read(true).write(true).create(true).truncate(false).open(incomplete);
    let mut file = options.map_err(Error::io("write", incomplete))?;
    for _ in 0..DAMAGED {
        bytes(client, url, name, meta, incomplete, &mut file, ui)?;
        if is_intact(&mut file, meta).map_err(Error::io("read", incomplete))? {
            file.sync_all().map_err(Error::io("write", incomplete))?;
            return Ok(());
        }
        // What is there may have been damaged long ago: from the start.
        file.set_len(0).map_err(Error::io("write", incomplete))?;
    }
    drop(file);
    let _ = std::fs::remove_file(incomplete);
    Err(Failure::Refused(format!(
        "{name} arrived damaged {DAMAGED} times: its bytes do not have the hash {} that the Hub names; nothing was kept",
        meta.etag
    )))
}

/// Appends what is missing, over as many connections as it takes.
fn bytes(
    client: &Client,
    url: &str,
    name: &str,
    meta: &FileMeta,
    path: &Path,
    file: &mut File,
    ui: &dyn Ui,
) -> Result<(), Failure> {
    let io = |error| Failure::Other(Error::io("write", path)(error));
    let mut tries = Tries::new(client);
    let mut ranges = true;
    // Only getting further than ever counts as progress: a server without ranges may break off at the same byte for ever.
    let mut furthest = file.metadata().map_err(io)?.len();
    loop {
        let mut have = file.seek(SeekFrom::End(0)).map_err(io)?;
        if meta.size.is_some_and(|size| have > size) || !ranges {
            file.set_len(0).map_err(io)?;
            have = file.seek(SeekFrom::Start(0)).map_err(io)?;
        }
        if meta.size == Some(have) {
            return Ok(());
        }
        let mut request = Request::new("GET", url).header("accept-encoding", "identity");
        if have > 0 {
            request = request.header("range", format!("bytes={have}-"));
        }
        let outcome = client.send_once(&request).and_then(|answer| {
            match starts_at(&answer, meta) {
                Some(at) if at == have => {}
                // The whole file instead of the rest: from its start, then.
                Some(0) => {
                    file.set_len(0).map_err(io)?;
                    file.seek(SeekFrom::Start(0)).map_err(io)?;
                    have = 0;
                }
                _ => {
                    ranges = false;
                    return Err(Failure::Network(format!("the Hub sends another part of {name} than was asked for")));
                }
            }
            ui.begin(name, have, meta.size);
            copy(client, answer, file, path, name, meta.size.map(|size| size - have), ui)
        });
        match outcome {
            Ok(()) => return Ok(()),
            Err(failure) if failure.status() == Some(416) && have > 0 => {
                // There is nothing from there on: what we have is too much, or all of it where the size is not known.
                if meta.size.is_none() && is_intact(file, meta).map_err(io)? {
                    return Ok(());
                }
                ranges = false;
                tries.after(Failure::Network(format!("the Hub has no such part of {name}")))?;
            }
            Err(failure) => {
                let reached = file.metadata().map_err(io)?.len();
                if reached > furthest {
                    furthest = reached;
                    tries.reset();
                }
                tries.after(failure)?;
            }
        }
    }
}

/// The offset of an answer's first byte; `None` if it is not one that can be used.
fn starts_at(answer: &Answer, meta: &FileMeta) -> Option<u64> {
    match answer.status {
        200 => Some(0),
        // A range of a compressed text is not a range of the text.
        206 if answer.header("content-encoding").is_none_or(|encoding| encoding == "identity") => {
            let range = answer.header("content-range")?.strip_prefix("bytes ")?;
            let (range, total) = range.split_once('/')?;
            if let (Ok(total), Some(size)) = (total.parse::<u64>(), meta.size)
                && total != size
            {
                return None;
            }
            range.split_once('-')?.0.parse().ok()
        }
        _ => None,
    }
}

fn copy(
    client: &Client,
    mut answer: Answer,
    file: &mut File,
    path: &Path,
    name: &str,
    expected: Option<u64>,
    ui: &dyn Ui,
) -> Result<(), Failure> {
    let mut reader = answer.body.as_reader();
    let mut buffer = vec![0u8; 256 << 10];
    let mut done = 0u64;
    loop {
        if client.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        let count = match reader.read(&mut buffer) {
            Ok(count) => count,
            Err(error) => {
                return Err(Failure::Network(format!("the connection broke while {name} was fetched: {error}")));
            }
        };
        if count == 0 {
            break;
        }
        done += count as u64;
        if expected.is_some_and(|expected| done > expected) {
            file.set_len(0).map_err(Error::io("write", path))?;
            return Err(Failure::Network(format!("the Hub sends more bytes of {name} than it announced")));
        }
        file.write_all(&buffer[..count]).map_err(Error::io("write", path))?;
        ui.advance(count as u64);
    }
    match expected {
        Some(expected) if done < expected => {
            Err(Failure::Network(format!("the connection ended {} bytes before the end of {name}", expected - done)))
        }
        _ => Ok(()),
    }
}

/// Whether size and hash of what is on disk are those that were announced.
fn is_intact(file: &mut File, meta: &FileMeta) -> std::io::Result<bool> {
    let length = file.seek(SeekFrom::End(0))?;
    if meta.size.is_some_and(|size| size != length) {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(0))?;
    let found = match meta.etag.len() {
        64 => sha256_of(file)?,
        _ => git_sha1_of(file, length)?,
    };
    Ok(found == meta.etag)
}

/// SHA-256 of what a reader holds, in hexadecimal.
pub(super) fn sha256_of(reader: &mut dyn Read) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(reader, &mut hash)?;
    Ok(hex(&hash.finalize()))
}

/// The hash by which git names a blob of `length` bytes, in hexadecimal.
pub(super) fn git_sha1_of(reader: &mut dyn Read, length: u64) -> std::io::Result<String> {
    let mut hash = Sha1::new();
    hash.update(format!("blob {length}\0"));
    std::io::copy(reader, &mut hash)?;
    Ok(hex(&hash.finalize()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf hello | git hash-object --stdin` and `printf hello | sha256sum`.
    #[test]
    fn hashes() {
        assert_eq!(git_sha1_of(&mut &b"hello"[..], 5).unwrap(), "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");
        let expected = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(sha256_of(&mut &b"hello"[..]).unwrap(), expected);
    }
}
