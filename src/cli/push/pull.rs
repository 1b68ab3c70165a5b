//! `taper pull`: a model from the Hub into the cache.

use serde_json::json;

use crate::cli::ui::{Terminal, print_json, print_line, say};
use crate::error::Result;
use crate::hub::{self, Client, Repo, Settings, Want};

/// Arguments of `taper pull`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  taper pull openai-community/gpt2
  taper pull HuggingFaceTB/SmolLM2-135M --revision main --json
  taper sample openai-community/gpt2 --prompt \"Once\"      (pulls by itself)

The files go to the cache that Python's huggingface_hub uses too (HF_HOME, HF_HUB_CACHE). HF_TOKEN, or `hf auth login`, opens
private and gated models; HF_ENDPOINT names another Hub; HF_HUB_OFFLINE=1 uses only what is there.")]
pub struct Args {
    /// The model on the Hub.
    #[arg(value_name = "OWNER/NAME")]
    model: String,
    /// A branch, tag or commit [default: main].
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Print one JSON object: {\"model\", \"folder\", \"commit\", \"files\", \"fetched\"}.
    #[arg(long)]
    json: bool,
}

/// Runs `taper pull`.
///
/// # Errors
/// As [`hub::pull`].
pub fn run(args: Args) -> Result<()> {
    let mut repo = Repo::model(&args.model)?;
    if let Some(revision) = &args.revision {
        repo = repo.at(revision)?;
    }
    let pulled = hub::pull(&Client::new(Settings::from_env()?), &repo, Want::Model, &Terminal::new())?;
    if args.json {
        return print_json(&json!({
            "model": repo.id(),
            "folder": pulled.folder.to_string_lossy(),
            "commit": pulled.commit,
            "files": pulled.files,
            "fetched": pulled.fetched,
        }));
    }
    let (files, fetched) = (pulled.files.len(), pulled.fetched);
    say(&format!("{repo} at commit {}: {files} files, {fetched} of them fetched now", &pulled.commit[..7]));
    print_line(&pulled.folder.to_string_lossy())
}
