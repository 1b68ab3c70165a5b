//! Pushes next to a training run: never in its way.
//!
//! The run hands over a checkpoint and continues at once. The checkpoint's files are hard-linked into a folder of their own
//! (an instant, and no room), because the run may remove the checkpoint while it is being sent. One thread sends; if it is
//! still busy when the next checkpoint comes, only the newest waits. What fails is told at the end, and the next checkpoint
//! tries again: what arrived is not sent twice.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::http::Client;
use super::plan::PushOptions;
use super::plan::local_files;
use super::push::push;
use super::repo::Repo;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::ui::Silent;

/// How the pushes of a run went.
#[derive(Clone, Debug, Default)]
pub struct Pushed {
    /// The last checkpoint that arrived, and its page.
    pub last: Option<(String, String)>,
    /// How many pushes arrived.
    pub done: usize,
    /// How many checkpoints were passed over, because a newer one came while another was on its way.
    pub skipped: usize,
    /// Why the last push failed, if it did.
    pub failure: Option<String>,
}

/// Work on a staged folder, done on the pushing thread before it is sent.
pub type Finish = Box<dyn FnOnce(&Path) -> Result<()> + Send>;

#[derive(Default)]
struct State {
    waiting: Option<(PathBuf, Finish)>,
    closing: bool,
    pushed: Pushed,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    /// A panic elsewhere must not become one here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that pushes checkpoints.
pub struct Background {
    shared: Arc<Shared>,
    cancel: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

impl Background {
    /// Starts the thread; nothing is sent until a checkpoint is offered.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(settings: Settings, repo: Repo, options: PushOptions) -> Result<Background> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let cancel = Arc::new(AtomicBool::new(false));
        let client = Client::new(settings).cancelled_by(cancel.clone());
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("push".into())
            .spawn(move || work(&client, &repo, &options, &of_thread))
            .map_err(|error| Error::Hub(format!("cannot push in the background: {error}")))?;
        Ok(Background { shared, cancel, thread: Some(thread) })
    }

    /// Removes what a run that was killed left of its pushes.
    pub fn sweep(run: &Path) {
        remove(&run.join(STAGE));
    }

    /// Hands over a checkpoint of a run; returns at once, and never fails: what goes wrong is told at the end. Before it is
    /// sent, `finish` may change the folder in which its files are linked: files there are replaced, never written into.
    pub fn offer(&self, run: &Path, checkpoint: &Path, finish: Finish) {
        let staged = stage(run, checkpoint);
        let mut state = self.shared.lock();
        match staged {
            Ok(folder) => {
                if let Some((older, _)) = state.waiting.replace((folder, finish)) {
                    state.pushed.skipped += 1;
                    remove(&older);
                }
            }
            Err(error) => state.pushed.failure = Some(error.to_string()),
        }
        self.shared.changed.notify_all();
    }

    /// Waits for what is on its way, until `stop` is set, and says how it went.
    pub fn finish(mut self, stop: &AtomicBool) -> Pushed {
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if stop.load(Ordering::Relaxed) {
                self.cancel.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        let mut pushed = self.shared.lock().pushed.clone();
        if panicked {
            pushed.failure = Some("the pushing thread panicked; please report this".into());
        }
        pushed
    }
}

fn work(client: &Client, repo: &Repo, options: &PushOptions, shared: &Shared) {
    loop {
        let (folder, finish) = {
            let mut state = shared.lock();
            loop {
                let waiting = state.waiting.take();
                if let Some((folder, finish)) = waiting {
                    if client.is_cancelled() {
                        remove(&folder);
                        return;
                    }
                    break (folder, finish);
                }
                if state.closing {
                    return;
                }
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let result = finish(&folder).and_then(|()| push(client, &folder, repo, options, &Silent));
        remove(&folder);
        let mut state = shared.lock();
        match result {
            Ok(done) => {
                state.pushed.done += 1;
                state.pushed.last = Some((name, done.url));
                state.pushed.failure = None;
            }
            Err(error) => state.pushed.failure = Some(format!("{name}: {error}")),
        }
    }
}

/// The folder within a run where checkpoints on their way are kept.
const STAGE: &str = ".push";

/// Links a checkpoint's files, without its training state, into a folder of its own.
fn stage(run: &Path, checkpoint: &Path) -> Result<PathBuf> {
    let name = checkpoint.file_name().unwrap_or_default();
    let folder = run.join(STAGE).join(name);
    remove(&folder);
    for file in local_files(checkpoint, false)? {
        let link = folder.join(&file.path);
        let parent = link.parent().unwrap_or(&folder);
        std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        if std::fs::hard_link(&file.local, &link).is_err() {
            // A file system without links: a copy takes longer, and is right.
            std::fs::copy(&file.local, &link).map_err(Error::io("copy", &file.local))?;
        }
    }
    Ok(folder)
}

/// Removes a staged folder, and the folder of them all when it is empty. What stays is swept at the next start.
fn remove(folder: &Path) {
    let _ = std::fs::remove_dir_all(folder);
    if let Some(parent) = folder.parent().filter(|parent| parent.ends_with(STAGE)) {
        let _ = std::fs::remove_dir(parent);
    }
}
