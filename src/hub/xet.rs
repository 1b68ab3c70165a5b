//! Large files by Xet: content-defined chunks, each stored once, through the Hub's own crate `hf-xet`.
//!
//! Feature `xet`, because the crate brings an asynchronous runtime and a second HTTP client. The Hub decides: a batch that
//! answers `"transfer": "xet"` names no addresses, and the objects go to the storage that `xet-write-token` names, with a
//! token for that storage alone. Ours never leaves `http`: the crate is given no address to renew its token at; where that
//! runs out, the upload is begun again with a new one, and chunks that arrived are known and not sent twice.

use std::time::Duration;

use xet::xet_session::{Sha256Policy, XetSessionBuilder, XetUploadCommit};

use super::answer::Failure;
use super::http::{Auth, Client, Request, Tries, origin};
use super::plan::PlannedFile;
use super::remote::text;
use super::repo::Repo;
use crate::ui::Ui;

/// Stores the objects of one group.
pub(super) fn upload(
    client: &Client,
    repo: &Repo,
    pr: bool,
    files: &[&PlannedFile],
    ui: &dyn Ui,
) -> Result<(), Failure> {
    // The crate leaves the choice of cryptography to the program; this is the one that ureq uses. A second time it is
    // refused, which is well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut tries = Tries::new(client);
    let total = files.iter().map(|file| file.size).sum();
    loop {
        let access = access(client, repo, pr)?;
        ui.begin(&format!("{} files by Xet", files.len()), 0, Some(total));
        let result = once(client, &access, files, ui);
        ui.end();
        match result {
            Err(failure) => tries.after(failure)?,
            Ok(()) => return Ok(()),
        }
    }
}

/// Where the storage is, and the permission to write there.
struct Access {
    url: String,
    token: String,
    /// Seconds since 1970.
    expires: u64,
}

fn access(client: &Client, repo: &Repo, pr: bool) -> Result<Access, Failure> {
    let query = if pr { "?create_pr=1" } else { "" };
    let url = format!("{}/xet-write-token/{}{query}", repo.api(), repo.quoted_revision());
    let mut request = Request::new("GET", url);
    request.auth = Auth::Writing;
    let (_, answer) = client.json(&request)?;
    let url = text(&answer, "casUrl")?.trim_end_matches('/').to_string();
    let scheme = |url: &str| origin(url).map(|origin| origin.0);
    // Not a file of this machine, and nothing unprotected behind a Hub that is.
    match (scheme(&client.settings().endpoint).as_deref(), scheme(&url).as_deref()) {
        (_, Some("https")) | (Some("http"), Some("http")) => {}
        _ => return Err(Failure::Refused("the Hub names a storage for Xet that is not protected by https".into())),
    }
    let expires = answer["exp"].as_u64().ok_or_else(|| Failure::Refused("the Hub's answer has no exp".into()))?;
    Ok(Access { url, token: text(&answer, "accessToken")?.to_string(), expires })
}

fn once(client: &Client, access: &Access, files: &[&PlannedFile], ui: &dyn Ui) -> Result<(), Failure> {
    let broken = |error: &dyn std::fmt::Display| {
        Failure::Network(client.hidden(&format!("the upload by Xet failed: {error}")).replace(&access.token, "[token]"))
    };
    let session = XetSessionBuilder::new().build().map_err(|error| broken(&error))?;
    let commit = session
        .new_upload_commit()
        .map_err(|error| broken(&error))?
        .with_endpoint(&*access.url)
        .with_token_info(&*access.token, access.expires)
        .build_blocking()
        .map_err(|error| broken(&error))?;
    for file in files {
        commit.upload_from_path_blocking(file.local.clone(), Sha256Policy::Compute).map_err(|error| broken(&error))?;
    }
    std::thread::scope(|scope| {
        let work = scope.spawn(|| commit.commit_blocking().map(|_| ()).map_err(|error| broken(&error)));
        watch(client, &commit, ui, || work.is_finished());
        let result = work.join().unwrap_or_else(|_| Err(broken(&"a panic")));
        if client.is_cancelled() { Err(Failure::Cancelled) } else { result }
    })
}

/// Reports the bytes that go by until the work is done; ends it when someone asks to stop.
fn watch(client: &Client, commit: &XetUploadCommit, ui: &dyn Ui, is_done: impl Fn() -> bool) {
    let (mut seen, mut stopped) = (0, false);
    while !is_done() {
        std::thread::sleep(Duration::from_millis(50));
        let now = commit.progress().total_bytes_completed;
        ui.advance(now.saturating_sub(seen));
        seen = seen.max(now);
        if client.is_cancelled() && !stopped {
            stopped = true;
            // What cannot be stopped ends by itself.
            let _ = commit.abort();
        }
    }
}
