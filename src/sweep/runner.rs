//! Trains the runs of a sweep, each in a process of its own: one at a time on each device.
//!
//! A process for each run contains what goes wrong in it: an error, an exhausted memory, a crash of a driver. The child is
//! this very program (`taper train BASE --set ... --run DIR --resume`), so a run of a sweep is a run like any other. It
//! inherits no access token of the Hub, unless its config needs the Hub: what it does not have it cannot leak.
//!
//! Unusual: the child has a process group of its own, so that Ctrl-C in a terminal reaches only the sweep, which passes it
//! on once (twice would mean: do not save). And where the system can (Linux), a child whose sweep is killed is told to
//! save and stop.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::config::{BASE, COPY, Sweep};
use super::jobs::PlannedRun;
use super::results::{Entry, Outcome, State, record};
use crate::error::{Error, Result};
use crate::hub::config::PushEvery;
use crate::hub::{TOKEN_VARIABLES, is_hub_name};

/// What the runs print, in the folder of each.
pub const CONSOLE: &str = "console.txt";
/// How long a process of an interrupted sweep may take to save its state before the next one gives up waiting for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program to start; this one, but for tests.
    pub program: PathBuf,
    /// One run at a time on each of these (`--device` of the run); none: one at a time on the device of its config.
    pub devices: Vec<String>,
    /// Try runs again that failed before.
    pub retry_failed: bool,
}

/// Reads a list of devices, `cuda:0,cuda:1`. Whether they are there is for the runs to say.
///
/// # Errors
/// `Usage` for a word that is no device, or a device that is there twice.
pub fn devices(list: &str) -> Result<Vec<String>> {
    let mut devices: Vec<String> = Vec::new();
    for word in list.split(',').map(str::trim) {
        let ordinal = word.strip_prefix("cuda:").is_some_and(|n| n.parse::<usize>().is_ok());
        if !(ordinal || ["cpu", "cuda", "auto"].contains(&word)) {
            return Err(Error::usage(format!("unknown device {word:?}; choose cpu, cuda, cuda:N or auto")));
        }
        let device = if word == "cuda" { "cuda:0" } else { word };
        if devices.iter().any(|other| other == device) {
            return Err(Error::usage(format!("the device {word:?} is there twice; runs go one at a time on each")));
        }
        devices.push(device.into());
    }
    if devices.len() > 1 && devices.iter().any(|device| device == "auto") {
        return Err(Error::usage("\"auto\" may be any of the other devices; name each device"));
    }
    Ok(devices)
}

/// The sweep's folder, held for this process alone.
#[derive(Debug)]
pub struct Folder {
    _lock: File,
    base: PathBuf,
}

impl Folder {
    /// Takes the folder and writes the sweep file and the base config into it.
    ///
    /// # Errors
    /// If another process holds it, or it cannot be written.
    pub fn open(sweep: &Sweep) -> Result<Folder> {
        std::fs::create_dir_all(&sweep.out).map_err(Error::io("create", &sweep.out))?;
        let lock = lock(&sweep.out.join(".lock"), Duration::ZERO)?;
        let (base, copy) = (sweep.out.join(BASE), sweep.out.join(COPY));
        for (path, text) in [(&base, &sweep.base), (&copy, &sweep.text)] {
            std::fs::write(path, text).map_err(Error::io("write", path))?;
        }
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

/// What [`run`] tells while it works.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// A run starts, on this device where the sweep says so.
    Started(&'a PlannedRun, Option<&'a str>),
    /// A run ended.
    Ended(&'a PlannedRun, &'a Entry),
}

/// Trains what is left of `outcomes`, started in their order. `told` hears of each run before it starts and after it ended.
///
/// # Errors
/// `Interrupted` if `stop` was set: the runs at hand have saved their states. A failing run is no error; the journal has it.
pub fn run(
    folder: &Folder,
    sweep: &Sweep,
    outcomes: &[Outcome],
    options: &Options,
    stop: &AtomicBool,
    told: &mut dyn FnMut(News),
) -> Result<()> {
    let due = outcomes.iter().filter(|outcome| is_due(outcome, options.retry_failed)).map(|outcome| &outcome.job);
    let queue = Mutex::new(due);
    // An error of the sweep itself (a full disk) stops the runs on the other devices too.
    let broken = AtomicBool::new(false);
    let stopping = || stop.load(Ordering::Relaxed) || broken.load(Ordering::Relaxed);
    let devices: Vec<Option<&str>> = match &options.devices[..] {
        [] => vec![None],
        devices => devices.iter().map(|device| Some(&device[..])).collect(),
    };
    let (sender, news) = mpsc::channel();
    let (mut error, mut unfinished) = (None, false);
    std::thread::scope(|scope| {
        for &device in &devices {
            let (sender, queue, stopping) = (sender.clone(), &queue, &stopping);
            scope.spawn(move || {
                while !stopping() {
                    let Some(job) = queue.lock().unwrap_or_else(PoisonError::into_inner).next() else { break };
                    // The receiver listens as long as there are senders.
                    let _ = sender.send((job, device, None));
                    let entry = train(folder, sweep, job, device, options, stopping);
                    let _ = sender.send((job, device, Some(entry)));
                }
            });
        }
        drop(sender);
        for (job, device, entry) in news {
            let outcome = match entry {
                None => {
                    told(News::Started(job, device));
                    Ok(())
                }
                Some(entry) => entry.and_then(|entry| {
                    unfinished |= entry.ended == "stopped";
                    record(&sweep.out, &entry)?;
                    told(News::Ended(job, &entry));
                    Ok(())
                }),
            };
            if let Err(first) = outcome {
                broken.store(true, Ordering::Relaxed);
                error.get_or_insert(first);
            }
        }
    });
    let left = queue.into_inner().unwrap_or_else(PoisonError::into_inner).next().is_some();
    match error {
        Some(error) => Err(error),
        None if unfinished || left => Err(stopped()),
        None => Ok(()),
    }
}

fn stopped() -> Error {
    Error::Interrupted("the sweep is stopped and its state saved; the same command continues it".into())
}

/// Trains one run to its end.
fn train(
    folder: &Folder,
    sweep: &Sweep,
    job: &PlannedRun,
    device: Option<&str>,
    options: &Options,
    stopping: &dyn Fn() -> bool,
) -> Result<Entry> {
    std::fs::create_dir_all(&job.folder).map_err(Error::io("create", &job.folder))?;
    // A run whose sweep was killed may still be saving.
    drop(lock(&job.folder.join(".lock"), PATIENCE)?);
    let console_path = job.folder.join(CONSOLE);
    let console = std::fs::OpenOptions::new().create(true).append(true).open(&console_path);
    let console = console.map_err(Error::io("write", &console_path))?;
    let begins_at = console.metadata().map_or(0, |metadata| metadata.len());
    let mut command = command(folder, sweep, job, device, options)?;
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
        if stopping() && !asked {
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

/// The command that trains a run.
fn command(
    folder: &Folder,
    sweep: &Sweep,
    job: &PlannedRun,
    device: Option<&str>,
    options: &Options,
) -> Result<Command> {
    let mut command = Command::new(&options.program);
    command.arg("train").arg(&folder.base).arg("--run").arg(&job.folder).arg("--resume");
    job.overrides.iter().for_each(|set| {
        command.arg("--set").arg(set);
    });
    if let Some(device) = device {
        command.arg("--device").arg(device);
    }
    if !needs_hub(sweep, job)? {
        TOKEN_VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
    }
    Ok(command)
}

/// Whether a run's config sends it to the Hub: to push, or for a model or tokenizer that is not on this machine.
fn needs_hub(sweep: &Sweep, job: &PlannedRun) -> Result<bool> {
    let config = sweep.resolve(&sweep.arms[job.arm])?;
    let remote = |name: &str| !Path::new(name).exists() && is_hub_name(name);
    let names = [config.model.init_from.as_deref(), config.tokenizer.path.as_deref()];
    Ok(config.push.every != PushEvery::Off || names.into_iter().flatten().any(remote))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::jobs::jobs;

    #[test]
    fn a_run_that_does_without_the_hub_inherits_no_token() {
        let base = "[base.train]\nmax_steps = 9\n[base.data]\ntext = [\"x.txt\"]\nval_fraction = 0.1\n";
        let arms = [
            ("push", "push = { every = \"checkpoint\", repo = \"a/b\" }"),
            ("from", "model.init_from = \"a/b\""),
            ("tokenizer", "tokenizer = { kind = \"file\", path = \"a/b\" }"),
        ];
        let arms: String =
            arms.iter().map(|(name, set)| format!("[[arm]]\nname = {name:?}\nset = {{ {set} }}\n")).collect();
        let sweep = Sweep::parse(&format!("seeds = 1\n{arms}{base}"), "S.toml", "S").unwrap();
        let out = tempfile::tempdir().unwrap();
        let folder = Folder::open(&Sweep { out: out.path().into(), ..sweep.clone() }).unwrap();
        let options = Options { program: "taper".into(), devices: Vec::new(), retry_failed: false };
        for job in jobs(&sweep) {
            let command = command(&folder, &sweep, &job, Some("cuda:3"), &options).unwrap();
            let removed: Vec<_> =
                command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
            match &job.name[..] {
                "baseline/seed-1" => assert_eq!(removed, ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]),
                other => assert!(removed.is_empty(), "{other}"),
            }
            assert!(command.get_args().any(|argument| argument == "cuda:3"));
        }
    }

    #[test]
    fn devices_are_checked_before_anything_starts() {
        assert_eq!(devices("cuda").unwrap(), ["cuda:0"]);
        assert_eq!(devices("cuda:1, cuda:0,cpu").unwrap(), ["cuda:1", "cuda:0", "cpu"]);
        for (list, expected) in [
            ("gpu", "choose cpu"),
            ("cuda:x", "choose cpu"),
            ("", "choose cpu"),
            ("cuda:1,cuda:1", "twice"),
            ("cuda,cuda:0", "twice"),
            ("auto,cpu", "name each device"),
        ] {
            let error = devices(list).unwrap_err();
            assert!(error.to_string().contains(expected) && error.exit_code() == 2, "{list}: {error}");
        }
    }
}
