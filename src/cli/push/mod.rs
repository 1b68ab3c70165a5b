//! `taper push`: a checkpoint to the Hub; and the pushes of a run under way.

pub mod card;
pub mod pull;
pub mod pusher;

use serde_json::{Value, json};

use crate::cli::push::card::CardArgs;
use crate::cli::ui::{Terminal, note, print_json, print_line, say};
use crate::error::{Error, Result};
use crate::hub::{self, Client, Plan, PushOptions, Repo, Settings, Upload};
use crate::open::locate_here;

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
    /// Send the training state (weights in fp32, moments, counters) along, so that others can continue training.
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
    let run = card::run_of(&folder);
    let card = match run.as_deref().and_then(card::config_of) {
        Some(config) => args.card.clone().or(&config.push),
        None => args.card.clone(),
    };
    let source = card::ReadCard::read(&folder);
    for text in card::complete(&folder, &source, run.as_deref(), &repo, &card, overlay.path())? {
        note(&text);
    }
    let options = PushOptions {
        private: args.private,
        pr: args.pr,
        with_state: args.with_state,
        message: args.message.clone(),
        overlay: Some(overlay.path().to_path_buf()),
    };
    let (client, bar) = (Client::new(Settings::from_env()?), Terminal::new());
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
