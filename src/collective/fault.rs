//! Faults on purpose, for the tests of failures: `TAPER_FAULT=RANK@WHEN:KIND` makes a rank fail.
//!
//! WHEN is `N`, the rank's `N`-th collective; `NAME/STEP`, its first of that name in that step (`gradients/12`); or
//! `250ms`, so long after the ranks have met, whatever it does then. KIND is `kill` (as by the kernel when memory runs
//! out), `panic`, or `stall` (the process lives and does nothing). The supervisor does not hand it on to ranks that it
//! starts again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};

/// The environment variable.
pub const VARIABLE: &str = "TAPER_FAULT";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Kill,
    Panic,
    Stall,
}

#[derive(Clone, Debug, PartialEq)]
enum When {
    Count(u64),
    Call(String, u64),
    Time(Duration),
}

#[derive(Clone, Debug, PartialEq)]
struct Fault {
    rank: usize,
    when: When,
    kind: Kind,
}

fn parse(text: &str) -> Option<Fault> {
    let (place, kind) = text.split_once(':')?;
    let (rank, when) = place.split_once('@')?;
    let when = match (when.rsplit_once('/'), when.strip_suffix("ms")) {
        (Some((name, step)), _) => When::Call(name.into(), step.parse().ok()?),
        (None, Some(time)) => When::Time(Duration::from_millis(time.parse().ok()?)),
        (None, None) => When::Count(when.parse().ok()?),
    };
    let kind = match kind {
        "kill" => Kind::Kill,
        "panic" => Kind::Panic,
        "stall" => Kind::Stall,
        _ => return None,
    };
    Some(Fault { rank: rank.parse().ok()?, when, kind })
}

static FAULT: OnceLock<Option<Fault>> = OnceLock::new();

/// Reads the variable.
///
/// # Errors
/// `Usage` if it is set to something else than a fault.
pub fn arm() -> Result<()> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    let fault = parse(&text);
    if fault.is_none() && !text.is_empty() {
        return Err(Error::usage(format!(
            "{VARIABLE} = {text:?} is not RANK@WHEN:KIND, with WHEN a number of exchanges, NAME/STEP or a time such as 250ms, and KIND kill, panic or stall"
        )));
    }
    FAULT.get_or_init(|| fault);
    Ok(())
}

/// Called before every collective of a rank, with its name and step.
pub(super) fn before_collective(rank: usize, name: &str, step: u64) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(fault) = FAULT.get().and_then(Option::as_ref) else { return };
    let is_now = match &fault.when {
        When::Count(at) => fault.rank == rank && COUNT.fetch_add(1, Ordering::Relaxed) + 1 == *at,
        When::Call(at, of_step) => fault.rank == rank && name == at && step == *of_step,
        When::Time(_) => false,
    };
    if is_now {
        fail(fault.kind);
    }
}

/// Called once the ranks have met.
pub fn start_clock(rank: usize) {
    let Some(Fault { when: When::Time(time), kind, .. }) =
        FAULT.get().and_then(Option::as_ref).filter(|f| f.rank == rank)
    else {
        return;
    };
    std::thread::spawn(|| {
        std::thread::sleep(*time);
        #[cfg(unix)]
        if *kind == Kind::Stall {
            // SAFETY: a signal to this very process: all of its threads stop.
            unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
        }
        fail(*kind);
    });
}

fn fail(kind: Kind) {
    match kind {
        Kind::Panic => panic!("a fault on purpose ({VARIABLE})"),
        #[cfg(unix)]
        // SAFETY: a signal to this very process.
        Kind::Kill => unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
        },
        #[cfg(not(unix))]
        Kind::Kill => std::process::abort(),
        Kind::Stall => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        assert_eq!(parse("2@17:panic"), Some(Fault { rank: 2, when: When::Count(17), kind: Kind::Panic }));
        let when = When::Call("stop flag".into(), 3);
        let time = When::Time(Duration::from_millis(250));
        assert_eq!(parse("1@250ms:kill"), Some(Fault { rank: 1, when: time, kind: Kind::Kill }));
        assert_eq!(parse("0@stop flag/3:stall"), Some(Fault { rank: 0, when, kind: Kind::Stall }));
        assert!(
            ["", "2", "2@x:kill", "2@1:sleep", "@1:kill", "1@loss/:kill", "1@ms:kill"]
                .into_iter()
                .all(|text| parse(text).is_none())
        );
    }
}
