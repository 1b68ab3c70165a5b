//! Files of a data set that come when their turn comes, and go when they were read.
//!
//! Within a preparation one thread reads the files in order. When it asks for one, the next is put on its way, so that the
//! network and the processor work at the same time; two files at most are on disk. A whole file is the unit, and not a row
//! group, because its hash is the only proof that the bytes are right.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::answer::About;
use super::cache::RepoCache;
use super::download::fetch_apart;
use super::http::Client;
use super::remote::Entry;
use super::repo::Repo;
use crate::data::{Remote, Source};
use crate::error::{Error, Result};

/// The files of a commit, in the order of reading.
pub(super) struct Stream {
    client: Client,
    cache: RepoCache,
    repo: Repo,
    sha: String,
    files: Vec<Entry>,
    spool: PathBuf,
    /// The file that is on its way, by its number.
    ahead: Mutex<Option<(usize, JoinHandle<Result<PathBuf>>)>>,
}

impl Stream {
    /// A stream that keeps what is on its way in `spool`.
    pub fn new(client: Client, repo: &Repo, sha: &str, files: Vec<Entry>, spool: &Path) -> Arc<Stream> {
        let cache = RepoCache::new(&client.settings().cache, repo);
        Arc::new(Stream {
            client,
            cache,
            repo: repo.clone(),
            sha: sha.into(),
            files,
            spool: spool.to_path_buf(),
            ahead: Mutex::new(None),
        })
    }

    /// One of its files as a source, by the name that messages call it.
    pub fn source(self: &Arc<Stream>, number: usize, name: &str) -> Result<Source> {
        let bytes = self.files[number].size;
        Source::remote(name, bytes, Arc::new(File { stream: self.clone(), number }))
    }

    /// Where a file lies while it is needed.
    fn place(&self, number: usize) -> PathBuf {
        let path = self.files[number].path.replace('/', "-");
        self.spool.join(format!("{}-{number:06}-{path}", &self.sha[..12]))
    }

    fn fetch(&self, number: usize) -> Result<PathBuf> {
        let path = &self.files[number].path;
        let cached = self.cache.snapshot(&self.sha).join(path);
        if cached.is_file() {
            return Ok(cached);
        }
        let place = self.place(number);
        let has_token = self.client.settings().token.is_some();
        fetch_apart(&self.client, &self.repo, &self.sha, path, &place).about(&self.repo, has_token)?;
        Ok(place)
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("repo", &self.repo).field("files", &self.files.len()).finish_non_exhaustive()
    }
}

/// One file of a stream.
#[derive(Debug)]
struct File {
    stream: Arc<Stream>,
    number: usize,
}

impl Remote for File {
    fn fetch(&self) -> Result<PathBuf> {
        let ahead = || self.stream.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let coming = ahead().take();
        let path = match coming {
            Some((number, thread)) => {
                let result = thread.join().unwrap_or_else(|_| Err(Error::Hub("fetching ahead panicked".into())));
                if number == self.number { result? } else { self.stream.fetch(self.number)? }
            }
            None => self.stream.fetch(self.number)?,
        };
        let next = self.number + 1;
        if next < self.stream.files.len() {
            let stream = self.stream.clone();
            let thread = std::thread::Builder::new().name("fetch".into()).spawn(move || stream.fetch(next));
            // Without a thread to spare the file comes when it is asked for.
            *ahead() = thread.ok().map(|thread| (next, thread));
        }
        Ok(path)
    }

    fn release(&self) {
        // In the spool only: the cache is not ours to clear. What stays is removed with the spool.
        let _ = std::fs::remove_file(self.stream.place(self.number));
    }

    fn identity(&self) -> String {
        let entry = &self.stream.files[self.number];
        if entry.oid.is_empty() { self.stream.sha.clone() } else { entry.oid.clone() }
    }
}
