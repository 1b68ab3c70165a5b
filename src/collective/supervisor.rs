//! Ranks as child processes of one machine: started, watched, and started again from the last checkpoint when one fails.
//!
//! Ranks find out by themselves that one of them is gone, and end; whoever does not within a while is killed. What failed
//! first is what counts: its rank and how it ended are named, and its last words are repeated.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::launch;
use crate::error::{Error, Result};
use crate::ui::Ui;

/// What to start, and how often again.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How many processes.
    pub processes: usize,
    /// How often to start again after failures without a newer checkpoint between them.
    pub restarts: usize,
    /// How long the others may take to end after one has failed.
    pub grace: Duration,
}

/// How one attempt ended.
enum Attempt {
    Done,
    Stopped,
    Failed(String),
    /// What is wrong with the command or the config is as wrong the next time.
    Refused(String),
}

struct Rank<'scope> {
    child: Child,
    ended: Option<ExitStatus>,
    /// Whether it had to be killed because it did not end by itself.
    killed: bool,
    /// Its place in the order of ends.
    order: usize,
    /// The last line that begins with "error:", or the last of all.
    last_words: Arc<Mutex<String>>,
    reader: Option<std::thread::ScopedJoinHandle<'scope, ()>>,
}

/// Runs `command(attempt)` as every rank until all are done; `newest` gives the step of the newest checkpoint, `stop` is set
/// by a signal, which is passed on. What ranks write to standard error is relayed to `ui`.
///
/// # Errors
/// `Interrupted` when stopped by a signal; what failed, where restarts are used up or would not help.
pub fn run(
    policy: Policy,
    command: &dyn Fn(usize) -> Command,
    newest: &dyn Fn() -> Option<u64>,
    stop: &AtomicBool,
    ui: &dyn Ui,
) -> Result<()> {
    let (mut attempt, mut failures, mut reached) = (0, 0, newest());
    loop {
        let message = match run_once(policy, attempt, &command, stop, ui)? {
            Attempt::Done => return Ok(()),
            Attempt::Stopped => {
                return Err(Error::Interrupted(
                    "stopped by a signal; the state is saved, continue with --resume".into(),
                ));
            }
            Attempt::Refused(message) => return Err(Error::Usage(message)),
            Attempt::Failed(message) => message,
        };
        let now = newest();
        if now > reached {
            (failures, reached) = (0, now);
        }
        failures += 1;
        if failures > policy.restarts || stop.load(Ordering::Relaxed) {
            let times = if attempt == 0 { String::new() } else { format!(" (after {attempt} restart(s))") };
            return Err(Error::Training(format!("{message}{times}")));
        }
        let pause = Duration::from_millis(500 << (failures - 1).min(6));
        let from = now.map_or("the beginning".into(), |step| format!("step {step}"));
        ui.info(&format!(
            "{message}\nstarting all {} ranks again from {from} in {:.1} s (restart {failures} of at most {})",
            policy.processes,
            pause.as_secs_f64(),
            policy.restarts
        ));
        let until = Instant::now() + pause;
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        attempt += 1;
    }
}

fn run_once(
    policy: Policy,
    attempt: usize,
    command: &dyn Fn(usize) -> Command,
    stop: &AtomicBool,
    ui: &dyn Ui,
) -> Result<Attempt> {
    std::thread::scope(|scope| watch_ranks(policy, attempt, command, stop, (scope, ui)))
}

/// Starts all ranks and waits for all; threads of the scope relay what they write.
fn watch_ranks<'scope, 'env>(
    policy: Policy,
    attempt: usize,
    command: &dyn Fn(usize) -> Command,
    stop: &AtomicBool,
    (scope, ui): (&'scope std::thread::Scope<'scope, 'env>, &'env dyn Ui),
) -> Result<Attempt> {
    let port = free_port()?;
    let run_id = format!("{} {attempt} {port}", std::process::id());
    let mut ranks = Vec::new();
    for rank in 0..policy.processes {
        let mut command = command(attempt);
        command
            .env(launch::RANK, rank.to_string())
            .env(launch::WORLD_SIZE, policy.processes.to_string())
            .env(launch::LOCAL_RANK, rank.to_string())
            .env(launch::RENDEZVOUS, format!("127.0.0.1:{port}"))
            .env(launch::RUN_ID, &run_id)
            .stdin(Stdio::null());
        match start(&mut command, rank, (scope, ui)) {
            Ok(started) => ranks.push(started),
            Err(error) => {
                end_all(&mut ranks);
                return Err(error);
            }
        }
    }
    let (mut ends, mut told, mut kill_at) = (0, false, None);
    while ranks.iter().any(|rank| rank.ended.is_none()) {
        let mut lost = None;
        for (number, rank) in ranks.iter_mut().enumerate().filter(|(_, rank)| rank.ended.is_none()) {
            match rank.child.try_wait() {
                Ok(ended) => rank.ended = ended,
                Err(error) => lost = Some(Error::Device(format!("watching rank {number}: {error}"))),
            }
            if rank.ended.is_some() {
                (rank.order, ends) = (ends, ends + 1);
                // However the first one ends, the others have nothing left to do: ranks that are done end together.
                kill_at.get_or_insert(Instant::now() + policy.grace);
            }
        }
        if let Some(error) = lost {
            // The threads that relay end when the ranks do.
            end_all(&mut ranks);
            return Err(error);
        }
        if stop.load(Ordering::Relaxed) && !told {
            told = true;
            ranks.iter().filter(|rank| rank.ended.is_none()).for_each(|rank| terminate(&rank.child));
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            end_all(&mut ranks);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for rank in &mut ranks {
        if let Some(reader) = rank.reader.take() {
            let _ = reader.join();
        }
    }
    Ok(verdict(&ranks))
}

/// Ranks end within moments of each other, and not always in the order of their troubles: who was killed from outside or
/// panicked is the cause, then who does not speak of another rank, then who ended first.
fn verdict(ranks: &[Rank<'_>]) -> Attempt {
    let words = |rank: &Rank<'_>| rank.last_words.lock().map(|words| words.clone()).unwrap_or_default();
    let failed = ranks.iter().enumerate().filter_map(|(number, rank)| {
        let status = rank.ended.filter(|status| !rank.killed && !matches!(status.code(), Some(0 | 3)))?;
        let suspicion = match status.code() {
            None => 0,
            Some(101) => 1,
            Some(_) if !words(rank).is_empty() && !words(rank).starts_with("error: rank ") => 2,
            Some(_) => 3,
        };
        Some((suspicion, rank.order, number, status))
    });
    if let Some((_, _, number, status)) = failed.min_by_key(|(suspicion, order, ..)| (*suspicion, *order)) {
        let words = words(&ranks[number]);
        let words = if words.is_empty() { "its messages are above".into() } else { words };
        let message = format!("rank {number} {}: {words}", how(status));
        return if status.code() == Some(2) { Attempt::Refused(message) } else { Attempt::Failed(message) };
    }
    let ended_with =
        |code: i32| ranks.iter().filter(|rank| rank.ended.and_then(|status| status.code()) == Some(code)).count();
    match ranks.iter().position(|rank| rank.killed) {
        _ if ended_with(3) > 0 => Attempt::Stopped,
        _ if ended_with(0) == ranks.len() => Attempt::Done,
        // It hung after its last call: to start again shows whether anything is missing.
        Some(number) => Attempt::Failed(format!("rank {number} did not end when the others had")),
        None => Attempt::Stopped,
    }
}

fn how(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let hint = if signal == libc::SIGKILL { ", as the kernel does when memory runs out" } else { "" };
        return format!("was killed by signal {signal}{hint}");
    }
    match status.code() {
        Some(101) => "panicked".into(),
        Some(code) => format!("failed with exit code {code}"),
        None => "failed".into(),
    }
}

fn start<'scope, 'env>(
    command: &mut Command,
    rank: usize,
    (scope, ui): (&'scope std::thread::Scope<'scope, 'env>, &'env dyn Ui),
) -> Result<Rank<'scope>> {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        // A Ctrl-C of the terminal goes to this process alone, which passes it on once.
        command.process_group(0);
        #[cfg(target_os = "linux")]
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Ranks do not outlive whoever watches them.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
    }
    // Rank 0 has the terminal to itself, for its progress bar.
    command.stderr(if rank == 0 { Stdio::inherit() } else { Stdio::piped() });
    let mut child = command.spawn().map_err(|error| Error::Device(format!("cannot start rank {rank}: {error}")))?;
    let last_words = Arc::new(Mutex::new(String::new()));
    let reader = child.stderr.take().map(|stderr| {
        let last_words = last_words.clone();
        scope.spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(std::io::Result::ok) {
                ui.relay(&format!("[rank {rank}] {line}"));
                if let Ok(mut words) = last_words.lock()
                    && (line.starts_with("error:") || !words.starts_with("error:"))
                {
                    *words = line;
                }
            }
        })
    });
    Ok(Rank { child, ended: None, killed: false, order: 0, last_words, reader })
}

fn end_all(ranks: &mut [Rank<'_>]) {
    for rank in ranks.iter_mut().filter(|rank| rank.ended.is_none()) {
        rank.killed = true;
        let _ = rank.child.kill();
        rank.ended = rank.child.wait().ok();
    }
}

#[cfg(unix)]
fn terminate(child: &Child) {
    // SAFETY: the child has not been waited for, so its id is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
}

#[cfg(not(unix))]
fn terminate(_child: &Child) {}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| Error::Device(format!("there is no free port: {error}")))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::ui::Level;

    /// Keeps the messages, without the lines of ranks.
    #[derive(Default)]
    struct Said(Mutex<Vec<String>>);

    impl Ui for Said {
        fn message(&self, _: Level, text: &str) {
            self.0.lock().unwrap().push(text.to_string());
        }

        fn relay(&self, _: &str) {}
    }

    fn shell(script: &'static str) -> impl Fn(usize) -> Command {
        move |attempt| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).env("ATTEMPT", attempt.to_string());
            command
        }
    }

    fn supervise(processes: usize, restarts: usize, script: &'static str) -> (Result<()>, Vec<String>) {
        let said = Said::default();
        let policy = Policy { processes, restarts, grace: Duration::from_millis(1500) };
        let result = run(policy, &shell(script), &|| None, &AtomicBool::new(false), &said);
        (result, said.0.into_inner().unwrap())
    }

    #[test]
    fn all_done_is_done() {
        let (result, said) = supervise(3, 0, "test -n \"$TAPER_RENDEZVOUS\" && test $TAPER_RANK -lt $TAPER_WORLD_SIZE");
        assert!(result.is_ok() && said.is_empty(), "{result:?}");
    }

    #[test]
    fn the_first_that_fails_is_named_and_all_start_again() {
        let script = "if [ $ATTEMPT = 0 ]; then if [ $TAPER_RANK = 1 ]; then echo 'error: no memory' >&2; exit 1; fi; sleep 60; fi";
        let (result, said) = supervise(2, 1, script);
        assert!(result.is_ok(), "{result:?}");
        assert!(said[0].contains("rank 1 failed with exit code 1: error: no memory"), "{said:?}");
        let (result, said) = supervise(2, 1, "kill -9 $$");
        let error = result.unwrap_err().to_string();
        assert!(error.contains("was killed by signal 9") && error.contains("after 1 restart"), "{error}");
        assert_eq!(said.len(), 1);
    }

    #[test]
    fn a_rank_that_hangs_when_all_is_done_is_not_waited_for() {
        let (result, said) = supervise(2, 1, "if [ $ATTEMPT = 0 ] && [ $TAPER_RANK = 1 ]; then exec sleep 60; fi");
        assert!(result.is_ok() && said[0].contains("rank 1 did not end when the others had"), "{result:?} {said:?}");
        // Where the others have stopped and saved, it is no matter.
        let (result, said) = supervise(2, 1, "if [ $TAPER_RANK = 1 ]; then exec sleep 60; fi; exit 3");
        assert!(result.unwrap_err().exit_code() == 3 && said.is_empty(), "{said:?}");
    }

    #[test]
    fn bad_usage_is_not_tried_again_and_a_clean_stop_is_no_failure() {
        let (result, said) = supervise(2, 5, "exit 2");
        assert!(said.is_empty() && result.unwrap_err().exit_code() == 2);
        let (result, _) = supervise(2, 5, "exit 3");
        assert_eq!(result.unwrap_err().exit_code(), 3);
    }
}
