//! Large files: the Git LFS batch, and its basic and multipart transfers.
//!
//! The Hub is asked first and after every doubt: an object without actions is stored, whoever sent it and whether or not
//! we heard the answer. So a whole object is never sent twice, and within a multipart upload no part whose ETag we have.
//! Storage gets no token: its addresses are signed. A few objects go at once, the parts of one in their order: a model of
//! one file is one stream, whose journal then never has gaps.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::answer::Failure;
use super::answer::TRANSIENT;
use super::http::{Auth, Body, Client, Request, Tries};
use super::journal::{Journal, Session};
use super::plan::{BATCH, PlannedFile};
use super::remote::text;
use super::repo::Repo;
use crate::ui::{Level, Ui};

const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// Stores every object that the Hub lacks; gives the number of those that were sent.
pub(super) fn upload(
    client: &Client,
    repo: &Repo,
    pr: bool,
    files: &[&PlannedFile],
    ui: &dyn Ui,
) -> Result<usize, Failure> {
    // Two files of the same bytes are one object.
    let objects: BTreeMap<&str, &PlannedFile> = files.iter().map(|file| (file.oid.as_str(), *file)).collect();
    let objects: Vec<&PlannedFile> = objects.into_values().collect();
    let mut sent = 0;
    for group in objects.chunks(BATCH) {
        let mut todo = match batch(client, repo, pr, group)? {
            Batch::Actions(todo) => todo,
            Batch::Xet => {
                super::xet::upload(client, repo, pr, group, ui)?;
                sent += group.len();
                continue;
            }
        };
        let queue: VecDeque<(&PlannedFile, Value)> =
            group.iter().filter_map(|file| Some((*file, todo.remove(file.oid.as_str())?))).collect();
        sent += queue.len();
        all(client, repo, pr, queue, ui)?;
    }
    Ok(sent)
}

/// Objects that are sent at once.
const AT_ONCE: usize = 4;

/// Sends the objects of a queue, a few at a time. After a failure none is begun any more; those under way end by themselves.
fn all(
    client: &Client,
    repo: &Repo,
    pr: bool,
    queue: VecDeque<(&PlannedFile, Value)>,
    ui: &dyn Ui,
) -> Result<(), Failure> {
    let threads = queue.len().min(AT_ONCE);
    let together = Together { ui, what: format!("{} files", queue.len()), state: Mutex::default() };
    let whole = queue.iter().map(|(file, _)| file.size).sum();
    let (queue, failed) = (Mutex::new(queue), Mutex::new(None));
    // Apart, so that the lock is not held while the object is sent.
    let next = || lock(&queue).pop_front();
    let work = || {
        while let Some((file, actions)) = next() {
            let result = if threads == 1 {
                ui.begin(&file.path, 0, Some(file.size));
                let result = object(client, repo, pr, file, actions, ui);
                ui.end();
                result
            } else {
                let one = One { together: &together, whole, done: Mutex::new(0) };
                object(client, repo, pr, file, actions, &one)
            };
            if let Err(failure) = result {
                lock(&queue).clear();
                lock(&failed).get_or_insert(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        // The calling thread works too.
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    if threads > 1 {
        ui.end();
    }
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The progress of several objects as one.
struct Together<'a> {
    ui: &'a dyn Ui,
    what: String,
    /// Bytes of all of them that went by.
    state: Mutex<u64>,
}

/// The progress of one of them.
struct One<'a> {
    together: &'a Together<'a>,
    /// Bytes of all of them.
    whole: u64,
    done: Mutex<u64>,
}

impl Ui for One<'_> {
    fn begin(&self, _: &str, done: u64, _: Option<u64>) {
        let mut all = lock(&self.together.state);
        *all = *all - *lock(&self.done) + done;
        *lock(&self.done) = done;
        self.together.ui.begin(&self.together.what, *all, Some(self.whole));
    }

    fn advance(&self, bytes: u64) {
        *lock(&self.together.state) += bytes;
        *lock(&self.done) += bytes;
        self.together.ui.advance(bytes);
    }

    fn message(&self, level: Level, text: &str) {
        self.together.ui.message(level, text);
    }
}

/// What the Hub says to a batch.
enum Batch {
    /// The actions for each object that is not stored, by its hash.
    Actions(BTreeMap<String, Value>),
    /// The objects go by Xet.
    Xet,
}

/// The ways of transfer that we offer.
fn transfers(client: &Client) -> &'static [&'static str] {
    match cfg!(feature = "xet") && client.settings().xet {
        true => &["basic", "multipart", "xet"],
        false => &["basic", "multipart"],
    }
}

/// Asks the Hub what is to be done with each object. An object that the Hub cannot take just now (an error of
/// its own, with a status that may pass) is asked for again.
fn batch(client: &Client, repo: &Repo, pr: bool, files: &[&PlannedFile]) -> Result<Batch, Failure> {
    let mut tries = Tries::new(client);
    loop {
        match batch_once(client, repo, pr, files) {
            Err(failure @ Failure::Network(_)) => tries.after(failure)?,
            answer => return answer,
        }
    }
}

fn batch_once(client: &Client, repo: &Repo, pr: bool, files: &[&PlannedFile]) -> Result<Batch, Failure> {
    let objects: Vec<Value> = files.iter().map(|file| json!({"oid": file.oid, "size": file.size})).collect();
    let mut body = json!({
        "operation": "upload",
        "transfers": transfers(client),
        "objects": objects,
        "hash_algo": "sha256",
    });
    if !pr {
        body["ref"] = json!({"name": repo.revision()});
    }
    let body = body.to_string();
    let mut request = Request::json(format!("{}.git/info/lfs/objects/batch", repo.page()), body.as_bytes());
    request.body = Body::Bytes(body.as_bytes(), LFS_JSON);
    let answer = match client.json(&request.header("accept", LFS_JSON)) {
        // It was tried often enough.
        Err(Failure::Network(message)) => return Err(Failure::Refused(message)),
        answer => answer?.1,
    };
    if answer["transfer"] == "xet" {
        return match transfers(client).contains(&"xet") {
            true => Ok(Batch::Xet),
            false => Err(Failure::Refused("the Hub wants large files by Xet, which was not offered".into())),
        };
    }
    let answers = answer["objects"].as_array().cloned().unwrap_or_default();
    let mut todo = BTreeMap::new();
    for file in files {
        let about = answers.iter().find(|object| object["oid"] == *file.oid);
        let about = about.ok_or_else(|| Failure::Refused(format!("the Hub does not say where {} goes", file.path)))?;
        if let Some(error) = about.get("error").filter(|error| !error.is_null()) {
            let message = error["message"].as_str().unwrap_or("no reason given");
            let message =
                format!("the Hub does not take {} ({}): {}", file.path, error["code"], client.hidden(message));
            let passes = error["code"].as_u64().and_then(|code| u16::try_from(code).ok());
            return Err(match passes.is_some_and(|code| TRANSIENT.contains(&code)) {
                true => Failure::Network(message),
                false => Failure::Refused(message),
            });
        }
        if let Some(actions) = about.get("actions").filter(|actions| actions.get("upload").is_some()) {
            todo.insert(file.oid.clone(), actions.clone());
        }
    }
    Ok(Batch::Actions(todo))
}

/// Sends one object, by whichever way the actions say; new ones are asked for where these fail.
fn object(
    client: &Client,
    repo: &Repo,
    pr: bool,
    file: &PlannedFile,
    mut actions: Value,
    ui: &dyn Ui,
) -> Result<(), Failure> {
    let mut tries = Tries::new(client);
    let journal = Journal::new(&client.settings().journal, &client.settings().endpoint, &repo.id(), &file.oid);
    let mut parts_done = 0;
    loop {
        let upload = &actions["upload"];
        let result = match upload["header"].get("chunk_size") {
            Some(_) => multipart(client, file, upload, &journal, ui),
            None => basic(client, file, upload, ui),
        };
        let now_done = journal.read().map_or(0, |session| session.done.len());
        if now_done > parts_done {
            tries.reset();
        }
        parts_done = now_done;
        match result.and_then(|()| verify(client, file, &actions)) {
            Ok(()) => return Ok(()),
            Err(failure) => {
                // An address that has run out (403) is as good as a broken connection: the next batch brings another.
                let expired = matches!(failure.status(), Some(400 | 403 | 404 | 410));
                match expired {
                    true => tries.after(Failure::Network(Failure::into_message(failure)))?,
                    false => tries.after(failure)?,
                }
            }
        }
        match batch(client, repo, pr, &[file])? {
            Batch::Actions(mut fresh) => match fresh.remove(&file.oid) {
                // It arrived after all.
                None => return Ok(()),
                Some(fresh) => actions = fresh,
            },
            // The Hub has changed its mind.
            Batch::Xet => return super::xet::upload(client, repo, pr, &[file], ui),
        }
    }
}

fn basic(client: &Client, file: &PlannedFile, upload: &Value, ui: &dyn Ui) -> Result<(), Failure> {
    let mut request = Request::new("PUT", text(upload, "href")?);
    request.auth = Auth::No;
    request.server_headers = headers(upload);
    request.body = Body::File { path: &file.local, offset: 0, len: file.size, ui };
    client.send_once(&request)?;
    Ok(())
}

fn multipart(
    client: &Client,
    file: &PlannedFile,
    upload: &Value,
    journal: &Journal,
    ui: &dyn Ui,
) -> Result<(), Failure> {
    let mut session = session(file, upload)?;
    let noted = journal.read();
    let continues = match noted {
        Some(noted) if noted.is_same(&session) => {
            // The fresh addresses live longer.
            session.done = noted.done;
            true
        }
        Some(noted) if noted.chunk > 0 && noted.parts.len() as u64 == file.size.div_ceil(noted.chunk) => {
            session = noted;
            true
        }
        _ => false,
    };
    let result = send_parts(client, file, &mut session, journal, ui);
    match &result {
        Ok(()) => journal.remove(),
        // Storage no longer knows the noted session: the next try is a new one.
        Err(Failure::Status { status: 400..=407 | 409..=428, .. }) => {
            journal.remove();
            if continues {
                return Err(Failure::Network(format!(
                    "the upload of {} that was begun earlier has run out",
                    file.path
                )));
            }
        }
        Err(_) => {}
    }
    result
}

/// The session that the actions describe.
fn session(file: &PlannedFile, upload: &Value) -> Result<Session, Failure> {
    let header = &upload["header"];
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let chunk = number(&header["chunk_size"]).filter(|&chunk| chunk > 0);
    let chunk = chunk.ok_or_else(|| Failure::Refused("the Hub names a part size that is none".into()))?;
    let keys = header.as_object().into_iter().flatten();
    let mut parts: Vec<(u64, String)> = keys
        .filter(|(key, _)| key.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|(key, url)| Some((key.parse().ok()?, url.as_str()?.to_string())))
        .collect();
    parts.sort_unstable();
    let expected = file.size.div_ceil(chunk);
    if parts.len() as u64 != expected {
        return Err(Failure::Refused(format!(
            "the Hub names {} addresses for the {expected} parts of {}",
            parts.len(),
            file.path
        )));
    }
    let parts = parts.into_iter().map(|(_, url)| url).collect();
    Ok(Session { chunk, complete: text(upload, "href")?.to_string(), parts, done: BTreeMap::new() })
}

fn send_parts(
    client: &Client,
    file: &PlannedFile,
    session: &mut Session,
    journal: &Journal,
    ui: &dyn Ui,
) -> Result<(), Failure> {
    for index in 0..session.parts.len() {
        if session.done.contains_key(&index) {
            continue;
        }
        let offset = index as u64 * session.chunk;
        let mut request = Request::new("PUT", &*session.parts[index]);
        request.auth = Auth::No;
        request.body = Body::File { path: &file.local, offset, len: session.chunk.min(file.size - offset), ui };
        let answer = client.send_once(&request)?;
        let etag = answer.header("etag").filter(|etag| !etag.is_empty());
        let etag = etag.ok_or_else(|| {
            Failure::Refused(format!("storage gives no ETag for part {} of {}", index + 1, file.path))
        })?;
        session.done.insert(index, etag.to_string());
        journal.write(session)?;
    }
    let parts = session.done.iter().map(|(index, etag)| json!({"partNumber": index + 1, "etag": etag}));
    let body = json!({"oid": file.oid, "parts": parts.collect::<Vec<_>>()}).to_string();
    let mut request = Request::new("POST", &*session.complete).header("accept", LFS_JSON);
    request.auth = Auth::No;
    request.body = Body::Bytes(body.as_bytes(), LFS_JSON);
    // Once: after a lost answer the batch tells whether it took.
    client.send_once(&request)?;
    Ok(())
}

fn verify(client: &Client, file: &PlannedFile, actions: &Value) -> Result<(), Failure> {
    let Some(action) = actions.get("verify").filter(|action| !action.is_null()) else { return Ok(()) };
    let body = json!({"oid": file.oid, "size": file.size}).to_string();
    // The token goes along only if this is the Hub itself.
    let mut request = Request::json(text(action, "href")?, body.as_bytes());
    request.server_headers = headers(action);
    client.send(&request)?;
    Ok(())
}

/// The headers that an action of the batch wants to see again (the LFS specification's `header`).
fn headers(action: &Value) -> Vec<(String, String)> {
    let all = action["header"].as_object().into_iter().flatten();
    let text = all.filter_map(|(name, value)| Some((name.to_ascii_lowercase(), value.as_str()?.to_string())));
    // Those of the connection are ours to set.
    text.filter(|(name, _)| !matches!(name.as_str(), "host" | "content-length" | "transfer-encoding" | "connection"))
        .collect()
}
