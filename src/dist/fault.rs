//! Faults on purpose, for the tests of failures: `TAPER_FAULT=RANK@N:KIND` makes a rank fail at its `N`-th collective.
//!
//! KIND is `kill` (as by the kernel when memory runs out), `panic`, or `stall` (the process lives and does nothing). The
//! supervisor does not hand it on to ranks that it starts again.

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

#[derive(Clone, Copy, Debug, PartialEq)]
struct Fault {
    rank: usize,
    at: u64,
    kind: Kind,
}

fn parse(text: &str) -> Option<Fault> {
    let (place, kind) = text.split_once(':')?;
    let (rank, at) = place.split_once('@')?;
    let kind = match kind {
        "kill" => Kind::Kill,
        "panic" => Kind::Panic,
        "stall" => Kind::Stall,
        _ => return None,
    };
    Some(Fault { rank: rank.parse().ok()?, at: at.parse().ok()?, kind })
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
        return Err(Error::usage(format!("{VARIABLE} = {text:?} is not RANK@N:kill, RANK@N:panic or RANK@N:stall")));
    }
    FAULT.get_or_init(|| fault);
    Ok(())
}

/// Called before every collective of a rank.
pub(super) fn before_collective(rank: usize) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(fault) = FAULT.get().copied().flatten() else { return };
    if fault.rank != rank || COUNT.fetch_add(1, Ordering::Relaxed) + 1 != fault.at {
        return;
    }
    match fault.kind {
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
        assert_eq!(parse("2@17:panic"), Some(Fault { rank: 2, at: 17, kind: Kind::Panic }));
        assert!(["", "2", "2@x:kill", "2@1:sleep", "@1:kill"].into_iter().all(|text| parse(text).is_none()));
    }
}
