//! The commit: one request, and the question whether it took.
//!
//! The request is never sent blindly again. Each names the commit that it builds on, so that the Hub refuses (412) what
//! would overwrite someone's work, a late copy of our own included; and after an answer that got lost, the head of the
//! branch tells whether we are in it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::answer::Failure;
use super::http::{Auth, Body, Client, Request, Tries};
use super::plan::{self, Plan, PlannedFile, Upload};
use super::remote;
use super::repo::Repo;
use crate::error::Error;

/// Commits of others that may come in between while we try.
const MAX_CONFLICTS: u32 = 3;

/// A commit that took.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    pub commit: String,
    pub pull_request: Option<String>,
}

/// Commits the plan's files on top of `parent`.
pub(super) fn commit(
    client: &Client,
    repo: &Repo,
    plan: &Plan,
    message: &str,
    pr: bool,
    mut parent: Option<String>,
) -> Result<Committed, Failure> {
    let mut tries = Tries::new(client);
    let mut conflicts = 0;
    loop {
        let body = body(plan, message, parent.as_deref())?;
        let query = if pr { "?create_pr=1" } else { "" };
        let mut request = Request::new("POST", format!("{}/commit/{}{query}", repo.api(), repo.quoted_revision()));
        request.auth = Auth::Writing;
        request.body = Body::Bytes(&body, "application/x-ndjson");
        // An answer that breaks off is as lost as none.
        let failure = match client.send_once(&request).and_then(|answer| answer.json()) {
            Ok(answer) => {
                // It took: an answer without its name is no reason to say otherwise.
                let commit = match answer["commitOid"].as_str() {
                    Some(commit) => commit.to_string(),
                    None => head(client, repo)?.unwrap_or_default(),
                };
                return Ok(Committed {
                    commit,
                    pull_request: answer["pullRequestUrl"].as_str().map(|url| client.hidden(url)),
                });
            }
            Err(failure) => failure,
        };
        let conflict = failure.status() == Some(412);
        match failure.status() {
            // It was not looked at: too many requests, or another operation on the repository is under way.
            Some(429) => {
                tries.after(failure)?;
                continue;
            }
            Some(409) => {
                tries.after(Failure::Network(format!("the Hub is busy with {repo} ({})", failure.into_message())))?;
                continue;
            }
            _ => {}
        }
        // What else is not transient is final.
        if !conflict && !failure.is_transient() {
            return Err(failure);
        }
        if pr && conflict && conflicts < MAX_CONFLICTS {
            // A pull request overwrites nothing: it is opened on whatever the branch is at now.
            conflicts += 1;
            parent = head(client, repo)?;
            continue;
        }
        if pr {
            // A pull request has no head to look at, and a second one must not come into being.
            return Err(match conflict {
                true => changed(repo),
                false => Failure::Refused(format!(
                    "the answer to the pull request got lost ({}); see the pull requests of {} before you push again",
                    failure.into_message(),
                    repo.id()
                )),
            });
        }
        if conflict {
            conflicts += 1;
        } else {
            tries.after(failure)?;
        }
        let head = head(client, repo)?;
        if head == parent && !conflict {
            continue;
        }
        match look(client, repo, plan)? {
            Seen::Ours => {
                let commit = head.unwrap_or_default();
                return Ok(Committed { commit, pull_request: None });
            }
            // Someone committed other files: ours go on top.
            Seen::AsBefore if conflicts <= MAX_CONFLICTS => parent = head,
            Seen::AsBefore | Seen::Changed => return Err(changed(repo)),
        }
    }
}

fn changed(repo: &Repo) -> Failure {
    Failure::Refused(format!(
        "{repo} was changed by someone else during the push, in files that this push would change too; nothing was \
         committed. Look at the changes, and push again to replace them"
    ))
}

enum Seen {
    /// The head has all that we wanted to commit.
    Ours,
    /// The head has, under our paths, what it had before.
    AsBefore,
    /// Neither.
    Changed,
}

/// Compares what the head has under our paths with what we wanted and with what there was.
fn look(client: &Client, repo: &Repo, plan: &Plan) -> Result<Seen, Failure> {
    let mut now: Vec<PlannedFile> = plan.files.clone();
    plan::ask(client, repo, false, &mut now)?;
    let info = remote::info(client, repo)?;
    let gone = !plan.deleted.iter().any(|path| info.files.contains(path));
    let mut pairs = plan.files.iter().zip(&now).filter(|(file, _)| file.is_sent());
    if gone && pairs.clone().all(|(_, now)| now.unchanged) {
        return Ok(Seen::Ours);
    }
    Ok(match pairs.all(|(before, now)| before.remote == now.remote) {
        true => Seen::AsBefore,
        false => Seen::Changed,
    })
}

/// The commit that the branch is at; `None` where there is none yet.
pub(super) fn head(client: &Client, repo: &Repo) -> Result<Option<String>, Failure> {
    match remote::info(client, repo) {
        Ok(info) => Ok(Some(info.sha)),
        Err(failure) if failure.code() == "RevisionNotFound" => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The request's lines of JSON.
fn body(plan: &Plan, message: &str, parent: Option<&str>) -> Result<Vec<u8>, Failure> {
    let mut header = json!({"summary": message, "description": ""});
    if let Some(parent) = parent {
        header["parentCommit"] = json!(parent);
    }
    let mut body = format!("{}\n", json!({"key": "header", "value": header})).into_bytes();
    for file in plan.files.iter().filter(|file| file.is_sent()) {
        let line = match file.upload {
            Upload::Regular => {
                let bytes = std::fs::read(&file.local).map_err(Error::io("read", &file.local))?;
                json!({"key": "file", "value": {"content": STANDARD.encode(bytes), "path": file.path, "encoding": "base64"}})
            }
            Upload::Lfs => json!({
                "key": "lfsFile",
                "value": {"path": file.path, "algo": "sha256", "oid": file.oid, "size": file.size},
            }),
        };
        body.extend(format!("{line}\n").into_bytes());
    }
    for path in &plan.deleted {
        body.extend(format!("{}\n", json!({"key": "deletedFile", "value": {"path": path}})).into_bytes());
    }
    Ok(body)
}
