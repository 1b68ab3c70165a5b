//! Trains the runs of a sweep one after another, each in a process of its own.
//!
//! A process for each run contains what goes wrong in it: an error, an exhausted memory, a crash of a driver. The child is
//! this very program (`taper train BASE --set ... --run DIR --resume`), so a run of a sweep is a run like any other.
//!
//! Unusual: the child has a process group of its own, so that Ctrl-C in a terminal reaches only the sweep, which passes it
//! on once (twice would mean: do not save). And where the system can (Linux), a child whose sweep is killed is told to
//! save and stop.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::config::Sweep;
use super::plan::Job;
use super::results::{Entry, Outcome, State, record};
use crate::error::{Error, Result};

/// What the runs print, in the folder of each.
pub const CONSOLE: &str = "console.txt";
/// How long a process of an interrupted sweep may take to save its state before the next one gives up waiting for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program to start; this one, but for tests.
    pub program: PathBuf,
    /// `--device` for each run.
    pub device: Option<String>,
    /// Try runs again that failed before.
    pub retry_failed: bool,
}

/// The sweep's folder, held for this process alone.
#[derive(Debug)]
pub struct Folder {
    _lock: File,
    base: PathBuf,
}

impl Folder {
    /// Takes the folder and writes the base config into it.
    ///
    /// # Errors
    /// If another process holds it, or it cannot be written.
    pub fn open(sweep: &Sweep) -> Result<Folder> {
        std::fs::create_dir_all(&sweep.out).map_err(Error::io("create", &sweep.out))?;
        let lock = lock(&sweep.out.join(".lock"), Duration::ZERO)?;
        let base = sweep.out.join("base.toml");
        std::fs::write(&base, &sweep.base).map_err(Error::io("write", &base))?;
        Ok(Folder { _lock: lock, base })
    }
}

/// Takes a lock file, waiting for at most `patience`.
fn lock(path: &Path, patience: Duration) -> Result<File> {
    let file = File::create(path).map_err(Error::io("write", path))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(50))
            }
            Err(TryLockError::WouldBlock) => {
                let folder = path.parent().unwrap_or(path);
                return Err(Error::Training(format!(
                    "{} is in use by another process; wait for it, or stop it",
                    folder.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
        }
    }
}

/// Whether a run is to be started.
pub fn is_due(outcome: &Outcome, retry_failed: bool) -> bool {
    match outcome.state {
        State::Done => false,
        State::Failed => retry_failed,
        State::Partial | State::Pending => true,
    }
}

/// Trains what is left of `outcomes`, in their order. `told` hears of each run before it starts (`None`) and after it ended.
///
/// # Errors
/// `Stopped` if `stop` was set: the run at hand has saved its state. A failing run is no error; the journal has it.
pub fn run(
    folder: &Folder,
    sweep: &Sweep,
    outcomes: &[Outcome],
    options: &Options,
    stop: &AtomicBool,
    told: &mut dyn FnMut(&Job, Option<&Entry>),
) -> Result<()> {
    for outcome in outcomes.iter().filter(|outcome| is_due(outcome, options.retry_failed)) {
        if stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        let job = &outcome.job;
        told(job, None);
        let entry = train(folder, job, options, stop)?;
        let ended = entry.ended == "stopped";
        record(&sweep.out, &entry)?;
        told(job, Some(&entry));
        if ended {
            return Err(stopped());
        }
    }
    Ok(())
}

fn stopped() -> Error {
    Error::Interrupted("the sweep is stopped and its state saved; the same command goes on with it".into())
}

/// Trains one run to its end.
fn train(folder: &Folder, job: &Job, options: &Options, stop: &AtomicBool) -> Result<Entry> {
    std::fs::create_dir_all(&job.folder).map_err(Error::io("create", &job.folder))?;
    // A run whose sweep was killed may still be saving.
    drop(lock(&job.folder.join(".lock"), PATIENCE)?);
    let console_path = job.folder.join(CONSOLE);
    let console = std::fs::OpenOptions::new().create(true).append(true).open(&console_path);
    let console = console.map_err(Error::io("write", &console_path))?;
    let begins_at = console.metadata().map_or(0, |metadata| metadata.len());
    let mut command = Command::new(&options.program);
    command.arg("train").arg(&folder.base).arg("--run").arg(&job.folder).arg("--resume");
    job.overrides.iter().for_each(|set| {
        command.arg("--set").arg(set);
    });
    if let Some(device) = &options.device {
        command.arg("--device").arg(device);
    }
    let other = console.try_clone().map_err(Error::io("write", &console_path))?;
    // An access token is no child's business; what the runs need of the Hub comes by the file that `hf auth login` writes.
    command.env_remove("HF_TOKEN").env_remove("HUGGING_FACE_HUB_TOKEN");
    command.stdin(Stdio::null()).stdout(console).stderr(other);
    detach(&mut command);
    let begun = Instant::now();
    let mut child = command.spawn().map_err(Error::io("start", &options.program))?;
    let (mut asked, mut pause) = (false, Duration::from_millis(5));
    let status = loop {
        if let Some(status) = child.try_wait().map_err(Error::io("wait for", &options.program))? {
            break status;
        }
        if stop.load(Ordering::Relaxed) && !asked {
            asked = true;
            interrupt(&mut child);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    };
    // A run that finished all the same, although it was asked to stop, is done.
    let ended = match status.code() {
        Some(0) => "done",
        Some(3) => "stopped",
        _ if asked => "stopped",
        _ => "failed",
    };
    let killed = || "it was killed by a signal (out of memory?)".to_string();
    let message = (ended == "failed").then(|| last_words(&console_path, begins_at).unwrap_or_else(killed));
    let (code, seconds) = (status.code(), begun.elapsed().as_secs_f64());
    Ok(Entry { job: job.name.clone(), ended: ended.into(), code, message, seconds })
}

/// The error message that a run ended with: what follows the last "error: " it printed.
fn last_words(console: &Path, begins_at: u64) -> Option<String> {
    let bytes = std::fs::read(console).ok()?;
    let text = String::from_utf8_lossy(bytes.get(begins_at as usize..)?).into_owned();
    let at = text.rfind("error: ")?;
    let message: String = text[at + "error: ".len()..].trim().chars().take(400).collect();
    Some(message)
}

#[cfg(unix)]
fn detach(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl is one, and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            // Fails on no kernel that runs this program; and without it only tidiness is lost.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
}

#[cfg(not(unix))]
fn detach(_: &mut Command) {}

#[cfg(unix)]
fn interrupt(child: &mut Child) {
    // SAFETY: kill takes two numbers; the child is not yet waited for, so its id still means it.
    unsafe {
        libc::kill(child.id() as libc::pid_t, libc::SIGINT);
    }
}

#[cfg(not(unix))]
fn interrupt(child: &mut Child) {
    // No gentler way is at hand; what the last checkpoint holds is safe.
    let _ = child.kill();
}
