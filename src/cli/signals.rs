//! Signals: a first one asks to stop, a second one ends the process.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::{Error, Result};

/// A flag that SIGINT, SIGTERM and SIGUSR1 set; a second SIGINT or SIGTERM ends the process at once.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    #[cfg(unix)]
    // Slurm's warning before the time limit (--signal=USR1@90); it may come more than once.
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, stop.clone())
        .map_err(|error| Error::Device(format!("cannot listen for signals: {error}")))?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag unset and passes on to the second handler.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(|error| Error::Device(format!("cannot listen for signals: {error}")))?;
    }
    Ok(stop)
}
