//! `taper push`: a checkpoint to the Hub; and the pushes of a run under way.

pub mod card_facts;
pub mod card_push;
pub mod pull;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::cli::open::locate_here;
use crate::cli::push::card_push::CardArgs;
use crate::cli::push::pull::Transfer;
use crate::cli::ui::progress::say;
use crate::cli::ui::{print_json, print_line};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::hub::config::{PushConfig, PushEvery};
use crate::hub::{self, Background, Client, Plan, PushOptions, Repo, Settings, Upload};
use crate::train::Observer;

/// Arguments of `taper push`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  taper push runs/quickstart me/my-first-gpt --dry-run
  taper push runs/quickstart me/my-first-gpt --private
  taper push runs/quickstart/checkpoints/step-00000500 me/my-first-gpt --pr

Needs an access token with write permission: HF_TOKEN, or `hf auth login`. If it is interrupted, run it again: what arrived
is not sent twice.")]
pub struct Args {
    /// A run folder (its best checkpoint, else its newest), or a model folder.
    #[arg(value_name = "RUN|CHECKPOINT")]
    model: String,
    /// The repository on the Hub; made if it is not there.
    #[arg(value_name = "OWNER/NAME")]
    repo: String,
    /// Make a new repository private.
    #[arg(long)]
    private: bool,
    /// Only list what would be sent, and show the model card.
    #[arg(long)]
    dry_run: bool,
    /// Open a pull request instead of committing to the branch.
    #[arg(long)]
    pr: bool,
    /// Send the training state (weights in fp32, moments, counters) along, so that others can go on training.
    #[arg(long)]
    with_state: bool,
    /// The branch to commit to [default: main].
    #[arg(long, value_name = "BRANCH")]
    revision: Option<String>,
    /// The commit's first line.
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    #[command(flatten)]
    card: CardArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `taper push`.
///
/// # Errors
/// As [`hub::push`].
pub fn run(args: Args) -> Result<()> {
    let folder = locate_here(&args.model)?;
    let mut repo = Repo::model(&args.repo)?;
    if let Some(revision) = &args.revision {
        repo = repo.at(revision)?;
    }
    let overlay = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    let run = card_push::run_of(&folder);
    let card = match run.as_deref().and_then(card_push::config_of) {
        Some(config) => args.card.clone().or(&config.push),
        None => args.card.clone(),
    };
    let source = card_push::Source::read(&folder);
    for note in card_push::complete(&folder, &source, run.as_deref(), &repo, &card, overlay.path())? {
        say(&format!("note: {note}"));
    }
    let options = PushOptions {
        private: args.private,
        pr: args.pr,
        with_state: args.with_state,
        message: args.message.clone(),
        overlay: Some(overlay.path().to_path_buf()),
    };
    let (client, bar) = (Client::new(Settings::from_env()?), Transfer::default());
    if args.dry_run {
        let plan = hub::plan_push(&client, &folder, &repo, &options, &bar)?;
        return if args.json { print_json(&plan_json(&plan, &repo)) } else { show(&plan, &repo, &args) };
    }
    say(&format!("pushing {} to {}", folder.display(), repo));
    let done = hub::push(&client, &folder, &repo, &options, &bar)?;
    if args.json {
        return print_json(&json!({
            "url": done.url,
            "commit": done.commit,
            "pull_request": done.pull_request,
            "committed": done.committed,
            "stored": done.stored,
        }));
    }
    if done.committed.is_empty() {
        say("the Hub has all of it already: nothing was committed");
    } else {
        say(&format!(
            "{} files committed ({} large ones sent), commit {}",
            done.committed.len(),
            done.stored,
            done.commit
        ));
    }
    print_line(done.pull_request.as_deref().unwrap_or(&done.url))
}

fn plan_json(plan: &Plan, repo: &Repo) -> Value {
    let files: Vec<Value> = plan
        .files
        .iter()
        .map(|file| {
            let upload = if file.upload == Upload::Lfs { "lfs" } else { "regular" };
            json!({"path": file.path, "size": file.size, "upload": upload, "sent": file.is_sent(), "ignored": file.ignored})
        })
        .collect();
    json!({
        "repo": repo.id(),
        "exists": plan.exists,
        "folder": plan.folder.to_string_lossy(),
        "files": files,
        "deleted": plan.deleted,
        "bytes": plan.bytes(),
        "card": card(plan),
    })
}

/// The card that would be sent.
fn card(plan: &Plan) -> Option<String> {
    let file = plan.files.iter().find(|file| file.path == "README.md")?;
    std::fs::read_to_string(&file.local).ok()
}

fn show(plan: &Plan, repo: &Repo, args: &Args) -> Result<()> {
    let fate = match (plan.exists, args.private) {
        (true, _) => "",
        (false, true) => " (not there yet: would be made, private)",
        (false, false) => " (not there yet: would be made, public)",
    };
    print_line(&format!("{} -> {repo}{fate}", plan.folder.display()))?;
    for file in &plan.files {
        let what = match (file.ignored, file.unchanged, file.upload) {
            (true, _, _) => "ignored by .gitignore",
            (_, true, _) => "unchanged",
            (_, _, Upload::Lfs) => "large file",
            (_, _, Upload::Regular) => "in the commit",
        };
        print_line(&format!("  {:>14}  {what:<22}  {}", file.size, file.path))?;
    }
    for path in &plan.deleted {
        print_line(&format!("  {:>14}  {:<22}  {path}", "-", "would be deleted"))?;
    }
    let sent = plan.files.iter().filter(|file| file.is_sent()).count();
    print_line(&format!("{sent} files, {} bytes; nothing was sent (--dry-run)", plan.bytes()))?;
    match card(plan) {
        Some(card) => print_line(&format!("\nREADME.md:\n{card}")),
        None => print_line("\nthere is no README.md, so the page on the Hub would have no model card"),
    }
}

/// Pushes the checkpoints of a run, as `[push]` says. It never fails the run: what goes wrong is said.
pub(crate) struct Pusher {
    background: Option<Background>,
    repo: String,
    run: PathBuf,
    card: CardArgs,
}

impl Pusher {
    /// The pusher that the config asks for; one that does nothing if it asks for none, or cannot be.
    pub fn new(config: &PushConfig, run: &Path) -> Pusher {
        let repo = config.repo.clone().unwrap_or_default();
        let mut pusher = Pusher { background: None, repo, run: run.to_path_buf(), card: CardArgs::of(config) };
        if config.every == PushEvery::Checkpoint {
            match pusher.start(config) {
                Ok(background) => pusher.background = Some(background),
                Err(error) => say(&format!("NOTE        checkpoints will NOT be pushed: {error}")),
            }
        }
        pusher
    }

    fn start(&self, config: &PushConfig) -> Result<Background> {
        let settings = Settings::from_env()?;
        if settings.token.is_none() || settings.offline {
            return Err(Error::usage(
                "there is no access token (HF_TOKEN, or `hf auth login`), or HF_HUB_OFFLINE is set",
            ));
        }
        Background::sweep(&self.run);
        let options = PushOptions { private: config.private, ..PushOptions::default() };
        Background::start(settings, Repo::model(&self.repo)?, options)
    }

    /// Waits for the last push, unless and until a signal set `stop`, and says how it went.
    pub fn finish(self, stop: &AtomicBool) {
        let Some(background) = self.background else { return };
        if !stop.load(Ordering::Relaxed) {
            say(&format!("waiting for the last push to {} (a signal ends that)", self.repo));
        }
        let pushed = background.finish(stop);
        let again = format!("taper push {} {}", self.run.display(), self.repo);
        match (&pushed.last, &pushed.failure) {
            (_, Some(failure)) => {
                say(&format!("NOTE        the last push failed: {failure}\n            try again by: {again}"))
            }
            (Some((name, url)), None) => {
                say(&format!("pushed {name} to {url} ({} pushes, {} passed over)", pushed.done, pushed.skipped));
            }
            (None, None) if stop.load(Ordering::Relaxed) => say(&format!("nothing was pushed yet; to do so: {again}")),
            (None, None) => {}
        }
    }
}

impl Observer for Pusher {
    fn event(&mut self, _: &Event) {}

    fn checkpoint(&mut self, run: &Path, checkpoint: &Path) {
        if let (Some(background), Ok(repo)) = (&self.background, Repo::model(&self.repo)) {
            // Read now, since the run may remove the checkpoint; drawn and written later, beside the run.
            let source = card_push::Source::read(checkpoint);
            let (run, card) = (run.to_path_buf(), self.card.clone());
            let finish = {
                let run = run.clone();
                Box::new(move |staged: &Path| finish_card(staged, &source, &run, &repo, &card))
            };
            background.offer(&run, checkpoint, finish);
        }
    }
}

/// Puts the completed card and the picture of the loss into a staged folder, whose files are links to the checkpoint's.
fn finish_card(staged: &Path, source: &card_push::Source, run: &Path, repo: &Repo, card: &CardArgs) -> Result<()> {
    let overlay = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    card_push::complete(staged, source, Some(run), repo, card, overlay.path())?;
    for entry in walkdir::WalkDir::new(overlay.path()) {
        let entry = entry.map_err(|error| Error::io("read", overlay.path())(error.into()))?;
        let inner = entry.path().strip_prefix(overlay.path()).unwrap_or(entry.path());
        let target = staged.join(inner);
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(&target).map_err(Error::io("create", &target))?;
            continue;
        }
        // Replaced, because writing through a link would change the checkpoint.
        match std::fs::remove_file(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &target)(error));
            }
            _ => {}
        }
        std::fs::copy(entry.path(), &target).map_err(Error::io("write", &target))?;
    }
    Ok(())
}
