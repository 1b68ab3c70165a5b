//! A hub on loopback, for tests: what the real one does, as far as clients can tell, and faults on demand.
//!
//! Two listeners stand for two origins: the Hub itself, and the storage behind it, which wants no token. `routes` answers
//! the API, `storage` keeps large objects, and this file speaks HTTP/1.1 (one request a connection) and does the faults.
//! `scripts/hub_faithful.sh` runs the official Python client against it, so that what our client is tested with is known to
//! be a hub.

mod routes;
mod storage;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub use storage::Storage;

/// The token that may do everything.
pub const TOKEN: &str = "hf_test_0123456789";

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Wrong {
    /// This status, with these headers and this body, instead of the answer.
    Status(u16, &'static [(&'static str, &'static str)], &'static str),
    /// The connection closes before the request is looked at.
    Drop,
    /// The request takes effect, and the connection closes without an answer.
    LoseAnswer,
    /// Only so many bytes of the body arrive.
    Truncate(usize),
    /// The request takes effect, and the answer is only so many bytes long, as if that were all.
    Short(usize),
    /// A bit of the body flips.
    Corrupt,
    /// The body comes after so many milliseconds.
    Slow(u64),
    /// `Range` is ignored.
    NoRange,
}

/// A fault: the requests it concerns, how many of them pass first, and how many it then strikes.
#[derive(Clone, Debug)]
pub struct Fault {
    pub method: &'static str,
    /// A part of the path.
    pub path: &'static str,
    pub after: usize,
    pub times: usize,
    pub wrong: Wrong,
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// With its query.
    pub path: String,
    /// `hub` or `storage`.
    pub origin: &'static str,
    pub authorization: Option<String>,
    pub range: Option<String>,
    pub status: u16,
}

/// One file of a commit.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    Regular(Vec<u8>),
    Lfs { oid: String, size: usize },
}

/// A commit: its name and its files.
#[derive(Clone, Debug)]
pub struct Commit {
    pub sha: String,
    pub files: BTreeMap<String, Entry>,
}

/// A repository.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    pub private: bool,
    pub gated: bool,
    pub commits: Vec<Commit>,
    /// Branches and pull requests: the index of a commit.
    pub refs: BTreeMap<String, usize>,
}

/// Everything the hub knows.
#[derive(Default)]
pub struct State {
    /// By `models/OWNER/NAME`.
    pub repos: BTreeMap<String, Repository>,
    pub storage: Storage,
    /// Old names and new ones: `OWNER/NAME`.
    pub moved: BTreeMap<String, String>,
    /// Entries of a page of a listing.
    pub page: usize,
    /// Regular files come gzipped, and without a length.
    pub gzip: bool,
    /// The listing of a revision leaves the files out.
    pub no_siblings: bool,
    /// What other servers do otherwise.
    pub quirks: Quirks,
    faults: Vec<(Fault, usize)>,
    asked: Vec<Asked>,
}

/// Habits of servers that speak the Hub's language with an accent.
#[derive(Clone, Debug, Default)]
pub struct Quirks {
    /// Appended to the hash in the etag of a small file, as servers do that compress.
    pub etag_suffix: &'static str,
    /// Etags are none of the Hub's hashes.
    pub foreign_etags: bool,
    /// HEAD is answered with a length of 0.
    pub head_of_length_0: bool,
    /// The compressed length of a gzipped file is stated.
    pub gzip_length: bool,
    /// Redirects and the next page are told relative to what was asked.
    pub relative: bool,
}

/// A running hub; it ends with the process.
#[derive(Clone)]
pub struct TestHub {
    /// The Hub's address.
    pub url: String,
    state: Arc<Mutex<State>>,
}

/// A request that was read.
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An answer to be written.
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Response {
        Response { status, headers: Vec::new(), body: body.into() }
    }

    pub fn json(status: u16, body: serde_json::Value) -> Response {
        Response::new(status, body.to_string()).with("content-type", "application/json")
    }

    /// An error as the Hub tells it.
    pub fn error(status: u16, code: &str, message: &str) -> Response {
        let response = Response::json(status, serde_json::json!({ "error": message })).with("x-error-message", message);
        if code.is_empty() { response } else { response.with("x-error-code", code) }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl TestHub {
    /// Starts a hub on two free ports.
    pub fn start() -> TestHub {
        let (hub, storage) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (url, storage_url) = (address(&hub), address(&storage));
        let mut state = State { page: 1000, ..State::default() };
        state.storage = Storage::new(storage_url, url.clone());
        let state = Arc::new(Mutex::new(state));
        for (listener, origin) in [(hub, "hub"), (storage, "storage")] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    std::thread::spawn(move || serve(stream, origin, &state));
                }
            });
        }
        TestHub { url, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Arms a fault for the next matching request.
    pub fn fault(&self, method: &'static str, path: &'static str, wrong: Wrong) {
        self.faults(Fault { method, path, after: 0, times: 1, wrong });
    }

    pub fn faults(&self, fault: Fault) {
        self.state().faults.push((fault, 0));
    }

    /// Nothing goes wrong any more.
    pub fn disarm(&self) {
        self.state().faults.clear();
    }

    /// Fills a repository with one commit of these files, large ones by the usual rule; gives the commit.
    pub fn put(&self, id: &str, files: &[(&str, &[u8])]) -> String {
        self.put_as("models", id, files)
    }

    /// [`TestHub::put`] for `models` or `datasets`.
    pub fn put_as(&self, kind: &str, id: &str, files: &[(&str, &[u8])]) -> String {
        let mut state = self.state();
        let mut all = BTreeMap::new();
        for (path, bytes) in files {
            let entry = match routes::is_lfs(path, bytes.len(), bytes) {
                true => {
                    let oid = hex(&Sha256::digest(bytes));
                    state.storage.objects.insert(oid.clone(), bytes.to_vec());
                    Entry::Lfs { oid, size: bytes.len() }
                }
                false => Entry::Regular(bytes.to_vec()),
            };
            all.insert(path.to_string(), entry);
        }
        state.repos.entry(format!("{kind}/{id}")).or_default().add("main", all, "put")
    }

    /// The files at the head of a repository's branch.
    pub fn files(&self, id: &str, revision: &str) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let commit = state.repos[&format!("models/{id}")].at(revision).unwrap().clone();
        let bytes = |entry: &Entry| match entry {
            Entry::Regular(bytes) => bytes.clone(),
            Entry::Lfs { oid, .. } => state.storage.objects[oid].clone(),
        };
        commit.files.iter().map(|(path, entry)| (path.clone(), bytes(entry))).collect()
    }

    /// How many commits a branch's history has.
    pub fn commits(&self, id: &str) -> usize {
        self.state().repos[&format!("models/{id}")].commits.len()
    }

    /// The requests so far whose method and path match.
    pub fn asked(&self, method: &str, path: &str) -> Vec<Asked> {
        let state = self.state();
        state.asked.iter().filter(|asked| asked.method == method && asked.path.contains(path)).cloned().collect()
    }

    /// Everything that was asked so far.
    pub fn all_asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// Forgets what was asked.
    pub fn forget(&self) {
        self.state().asked.clear();
    }
}

impl Repository {
    /// Adds a commit to a branch.
    pub fn add(&mut self, branch: &str, files: BTreeMap<String, Entry>, summary: &str) -> String {
        let parent = self.refs.get(branch).map(|&index| self.commits[index].sha.clone());
        let sha = hex(&Sha1::digest(format!("{} {parent:?} {files:?} {summary}", self.commits.len())));
        self.commits.push(Commit { sha: sha.clone(), files });
        self.refs.insert(branch.into(), self.commits.len() - 1);
        sha
    }

    /// The commit that a branch, pull request or name of a commit means.
    pub fn at(&self, revision: &str) -> Option<&Commit> {
        match self.refs.get(revision) {
            Some(&index) => self.commits.get(index),
            None => self.commits.iter().find(|commit| commit.sha == revision),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn serve(stream: TcpStream, origin: &'static str, state: &Mutex<State>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let Some(mut request) = read(&stream) else { return };
    let wrong = strike(&mut lock(state), &request);
    if let Some(Wrong::Drop) = wrong {
        return;
    }
    if let Some(Wrong::NoRange) = wrong {
        request.headers.remove("range");
    }
    let mut response = match &wrong {
        Some(Wrong::Status(status, headers, body)) => {
            let empty = Response::new(*status, *body);
            headers.iter().fold(empty, |response, (name, value)| response.with(name, *value))
        }
        _ => {
            let mut state = lock(state);
            match origin {
                "hub" => routes::answer(&mut state, &request),
                _ => state.storage.answer(&request),
            }
        }
    };
    let query: Vec<String> = request.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
    lock(state).asked.push(Asked {
        method: request.method.clone(),
        path: format!("{}?{}", request.path, query.join("&")),
        origin,
        authorization: request.headers.get("authorization").cloned(),
        range: request.headers.get("range").cloned(),
        status: response.status,
    });
    if let Some(Wrong::Short(bytes)) = wrong {
        response.body.truncate(bytes);
    }
    let length = response.body.len();
    match wrong {
        Some(Wrong::LoseAnswer) => return,
        Some(Wrong::Truncate(bytes)) => response.body.truncate(bytes),
        Some(Wrong::Corrupt) if length > 0 => response.body[length / 2] ^= 4,
        Some(Wrong::Slow(milliseconds)) => std::thread::sleep(Duration::from_millis(milliseconds)),
        _ => {}
    }
    let _ = write(&stream, &request, &response, length);
}

/// The fault that strikes this request, if one does: the first that is armed. Those after it do not see the request.
fn strike(state: &mut State, request: &Request) -> Option<Wrong> {
    for (fault, seen) in &mut state.faults {
        if request.method == fault.method && request.path.contains(fault.path) && *seen < fault.after + fault.times {
            *seen += 1;
            if *seen > fault.after {
                return Some(fault.wrong.clone());
            }
        }
    }
    None
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_string()),
            None => break,
        };
    }
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|encoding| encoding.contains("chunked")) {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim().split(';').next()?, 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = headers.get("content-length").and_then(|length| length.parse::<u64>().ok()) {
        reader.take(length).read_to_end(&mut body).ok()?;
        if body.len() as u64 != length {
            return None;
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let query =
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (unquote(k), unquote(v))).collect();
    // Paths stay quoted: a revision may hold a slash.
    Some(Request { method, path: path.to_string(), query, headers, body })
}

fn write(mut stream: &TcpStream, request: &Request, response: &Response, length: usize) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Status\r\nconnection: close\r\n", response.status);
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    // A gzipped text comes without its length, as from the Hub's own servers.
    let gzipped = response.headers.iter().any(|(name, _)| name == "content-encoding");
    let stated = response.headers.iter().any(|(name, _)| name == "content-length");
    if !gzipped && !stated {
        head += &format!("content-length: {length}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&response.body)?;
    }
    stream.flush()?;
    // Closed in this direction first, so that nothing unread on our side resets the connection under the answer.
    stream.shutdown(std::net::Shutdown::Write)?;
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
    Ok(())
}

pub fn unquote(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::new(), 0);
    while i < bytes.len() {
        let code = bytes.get(i + 1..i + 3).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (bytes[i], code) {
            (b'%', Some(code)) => {
                out.push(code);
                i += 3;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
