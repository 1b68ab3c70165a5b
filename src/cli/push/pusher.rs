//! The pushes of a run under way.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::push::card::{self, CardArgs};
use crate::cli::ui::say;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::hub::config::{PushConfig, PushEvery};
use crate::hub::{Background, PushOptions, Repo, Settings};
use crate::train::Observer;

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
    fn wait(&mut self, stop: &AtomicBool) {
        let Some(background) = self.background.take() else { return };
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

    fn finish(&mut self, _: &Path, stop: &AtomicBool) {
        self.wait(stop);
    }

    fn checkpoint(&mut self, run: &Path, checkpoint: &Path) {
        if let (Some(background), Ok(repo)) = (&self.background, Repo::model(&self.repo)) {
            // Read now, since the run may remove the checkpoint; drawn and written later, next to the run.
            let source = card::ReadCard::read(checkpoint);
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
fn finish_card(staged: &Path, source: &card::ReadCard, run: &Path, repo: &Repo, card: &CardArgs) -> Result<()> {
    let overlay = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    card::complete(staged, source, Some(run), repo, card, overlay.path())?;
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
