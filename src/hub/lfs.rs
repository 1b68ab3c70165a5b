//! Large files: the Git LFS batch, and its basic and multipart transfers.
//!
//! The Hub is asked first and after every doubt: an object without actions is stored, whoever sent it and whether or not
//! we heard the answer. So a whole object is never sent twice, and within a multipart upload no part whose ETag we have.
//! Storage gets no token: its addresses are signed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Progress;
use super::answer::Failure;
use super::http::{Auth, Body, Client, Request, Tries};
use super::journal::{Journal, Session};
use super::plan::{BATCH, PlannedFile};
use super::remote::text;
use super::repo::Repo;

const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// Stores every object that the Hub lacks; gives the number of those that were sent.
pub(super) fn upload(
    client: &Client,
    repo: &Repo,
    pr: bool,
    files: &[&PlannedFile],
    progress: &dyn Progress,
) -> Result<usize, Failure> {
    // Two files of the same bytes are one object.
    let objects: BTreeMap<&str, &PlannedFile> = files.iter().map(|file| (file.oid.as_str(), *file)).collect();
    let objects: Vec<&PlannedFile> = objects.into_values().collect();
    let mut sent = 0;
    for group in objects.chunks(BATCH) {
        let mut todo = batch(client, repo, pr, group)?;
        for file in group {
            if let Some(actions) = todo.remove(file.oid.as_str()) {
                progress.begin(&file.path, 0, Some(file.size));
                let result = object(client, repo, pr, file, actions, progress);
                progress.end();
                result?;
                sent += 1;
            }
        }
    }
    Ok(sent)
}

/// The actions for each object that is not stored, by its hash.
fn batch(client: &Client, repo: &Repo, pr: bool, files: &[&PlannedFile]) -> Result<BTreeMap<String, Value>, Failure> {
    let objects: Vec<Value> = files.iter().map(|file| json!({"oid": file.oid, "size": file.size})).collect();
    let mut body = json!({
        "operation": "upload",
        "transfers": ["basic", "multipart"],
        "objects": objects,
        "hash_algo": "sha256",
    });
    if !pr {
        body["ref"] = json!({"name": repo.revision()});
    }
    let body = body.to_string();
    let mut request = Request::json(format!("{}.git/info/lfs/objects/batch", repo.page()), body.as_bytes());
    request.body = Body::Bytes(body.as_bytes(), LFS_JSON);
    let answer = client.send(&request.header("accept", LFS_JSON))?.json()?;
    let answers = answer["objects"].as_array().cloned().unwrap_or_default();
    let mut todo = BTreeMap::new();
    for file in files {
        let about = answers.iter().find(|object| object["oid"] == *file.oid);
        let about = about.ok_or_else(|| Failure::Refused(format!("the Hub does not say where {} goes", file.path)))?;
        if let Some(error) = about.get("error").filter(|error| !error.is_null()) {
            let message = error["message"].as_str().unwrap_or("no reason given");
            return Err(Failure::Refused(format!(
                "the Hub does not take {} ({}): {message}",
                file.path, error["code"]
            )));
        }
        if let Some(actions) = about.get("actions").filter(|actions| actions.get("upload").is_some()) {
            todo.insert(file.oid.clone(), actions.clone());
        }
    }
    Ok(todo)
}

/// Sends one object, by whichever way the actions say; new ones are asked for where these fail.
fn object(
    client: &Client,
    repo: &Repo,
    pr: bool,
    file: &PlannedFile,
    mut actions: Value,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let mut tries = Tries::new(client);
    let journal = Journal::new(&client.settings().journal, &client.settings().endpoint, &repo.id(), &file.oid);
    let mut parts_done = 0;
    loop {
        let upload = &actions["upload"];
        let result = match upload["header"].get("chunk_size") {
            Some(_) => multipart(client, file, upload, &journal, progress),
            None => basic(client, file, upload, progress),
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
        match batch(client, repo, pr, &[file])?.remove(&file.oid) {
            // It arrived after all.
            None => return Ok(()),
            Some(fresh) => actions = fresh,
        }
    }
}

fn basic(client: &Client, file: &PlannedFile, upload: &Value, progress: &dyn Progress) -> Result<(), Failure> {
    let mut request = Request::new("PUT", text(upload, "href")?);
    request.auth = Auth::No;
    request.body = Body::File { path: &file.local, offset: 0, len: file.size, progress };
    client.send_once(&request)?;
    Ok(())
}

fn multipart(
    client: &Client,
    file: &PlannedFile,
    upload: &Value,
    journal: &Journal,
    progress: &dyn Progress,
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
    let result = send_parts(client, file, &mut session, journal, progress);
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
    progress: &dyn Progress,
) -> Result<(), Failure> {
    for index in 0..session.parts.len() {
        if session.done.contains_key(&index) {
            continue;
        }
        let offset = index as u64 * session.chunk;
        let mut request = Request::new("PUT", &*session.parts[index]);
        request.auth = Auth::No;
        request.body = Body::File { path: &file.local, offset, len: session.chunk.min(file.size - offset), progress };
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
    client.send(&Request::json(text(action, "href")?, body.as_bytes()))?;
    Ok(())
}
