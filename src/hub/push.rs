//! A model folder to the Hub: what is new of it, in one commit.

use std::path::Path;

use super::answer::{About, Failure};
use super::commit::commit;
use super::http::Client;
use super::plan::{self, Plan, PlannedFile, PushOptions, Upload};
use super::remote::{self, Info};
use super::repo::Repo;
use super::{create, lfs};
use crate::error::{Error, Result};
use crate::ui::Ui;

/// What a push did.
#[derive(Clone, Debug)]
pub struct PushResult {
    /// The repository's page.
    pub url: String,
    /// The commit that holds the folder.
    pub commit: String,
    /// The pull request, if that was asked for.
    pub pull_request: Option<String>,
    /// Files that were committed, by path; none if the Hub had them all.
    pub committed: Vec<String>,
    /// Large files whose bytes were sent.
    pub stored: usize,
}

/// What [`push`] would do. Nothing is changed on the Hub, and none is needed: what cannot be asked is noted.
///
/// # Errors
/// `Usage` if the folder is no model; `Io` if it cannot be read.
pub fn plan_push(client: &Client, folder: &Path, repo: &Repo, options: &PushOptions, ui: &dyn Ui) -> Result<Plan> {
    let files = plan::files_to_push(folder, options)?;
    let mut plan = Plan { folder: folder.to_path_buf(), files, deleted: Vec::new(), exists: false };
    for file in &mut plan.files {
        // By the Hub's usual rule; it is asked below where that can be.
        if file.path.ends_with(".safetensors") || file.size > 10 << 20 {
            file.upload = Upload::Lfs;
        }
    }
    if client.settings().offline {
        ui.note("HF_HUB_OFFLINE is set, so the Hub was not asked what it has already");
        return Ok(plan);
    }
    let asked = remote::info(client, repo).and_then(|info| {
        plan.exists = true;
        fill(client, repo, options, &info, &mut plan)
    });
    match asked {
        Ok(()) => {}
        Err(failure) if matches!(failure.code(), "RepoNotFound") || failure.status() == Some(404) => {
            plan.exists = failure.code() == "RevisionNotFound";
        }
        Err(failure) => {
            let why: Error = failure.about(repo, client.settings().token.is_some());
            ui.note(&format!("{why}; so it is not known what the Hub has already"));
        }
    }
    Ok(plan)
}

fn fill(client: &Client, repo: &Repo, options: &PushOptions, info: &Info, plan: &mut Plan) -> Result<(), Failure> {
    plan::ask(client, repo, options.pr, &mut plan.files)?;
    plan.deleted = plan::stale_weights(info, &plan.files);
    Ok(())
}

/// Pushes a model folder: makes the repository if need be, has the card checked, sends what the Hub lacks, commits once.
/// If it is interrupted, the same call continues where it was.
///
/// # Errors
/// `Usage` if the folder is no model or there is no token; `Hub` if the Hub refuses or cannot be reached; `Io`.
pub fn push(client: &Client, folder: &Path, repo: &Repo, options: &PushOptions, ui: &dyn Ui) -> Result<PushResult> {
    let settings = client.settings();
    if settings.offline {
        return Err(Error::usage("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it"));
    }
    if settings.token.is_none() {
        return Err(Error::usage(
            "to push, the Hub must know who you are: set HF_TOKEN to an access token with write permission, or run `hf auth login`",
        ));
    }
    let files = plan::files_to_push(folder, options)?;
    let plan = Plan { folder: folder.to_path_buf(), files, deleted: Vec::new(), exists: true };
    send(client, repo, options, plan, ui).about(repo, true)
}

fn send(
    client: &Client,
    repo: &Repo,
    options: &PushOptions,
    mut plan: Plan,
    ui: &dyn Ui,
) -> Result<PushResult, Failure> {
    create::ensure(client, repo, options.private)?;
    // The head comes first: what changes after it is a conflict, and is found out.
    let info = match remote::info(client, repo) {
        Ok(info) => Some(info),
        Err(failure) if failure.code() == "RevisionNotFound" && repo.revision() == "main" => None,
        Err(failure) => return Err(failure),
    };
    let parent = info.as_ref().map(|info| info.sha.clone());
    let nothing = Info { sha: String::new(), files: Vec::new() };
    fill(client, repo, options, info.as_ref().unwrap_or(&nothing), &mut plan)?;
    for file in plan.files.iter().filter(|file| file.ignored) {
        ui.note(&format!("{} is left out: the repository's .gitignore names it", file.path));
    }
    let url = format!("{}{}", client.settings().endpoint, repo.page());
    if plan.is_empty() {
        let commit = parent.unwrap_or_default();
        return Ok(PushResult { url, commit, pull_request: None, committed: Vec::new(), stored: 0 });
    }
    let sent: Vec<&PlannedFile> = plan.files.iter().filter(|file| file.is_sent()).collect();
    if let Some(card) = sent.iter().find(|file| file.path == "README.md") {
        let text = std::fs::read_to_string(&card.local).map_err(Error::io("read", &card.local))?;
        create::check_card(client, repo, &text, ui)?;
    }
    let large: Vec<&PlannedFile> = sent.iter().copied().filter(|file| file.upload == Upload::Lfs).collect();
    let stored = lfs::upload(client, repo, options.pr, &large, ui)?;
    let committed = sent.iter().map(|file| file.path.clone()).collect();
    let name = plan.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let message = options.message.clone().unwrap_or_else(|| format!("Push {name} with taper"));
    let done = commit(client, repo, &plan, &message, options.pr, parent)?;
    Ok(PushResult { url, commit: done.commit, pull_request: done.pull_request, committed, stored })
}
