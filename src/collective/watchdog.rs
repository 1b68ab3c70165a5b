//! A thread that ends the process when a call to another library does not come back: neither MPI nor NCCL finds out by
//! itself that a rank hangs.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Call;

/// Watches one call at a time.
pub struct Watchdog {
    watched: Arc<Mutex<Option<(Call, Instant)>>>,
}

/// A call that is watched until this is dropped.
pub struct Watched<'w> {
    watchdog: &'w Watchdog,
}

impl Watchdog {
    /// A watchdog that calls `late` once, with the call that has passed its limit.
    pub fn start(late: impl FnOnce(Call) + Send + 'static) -> Watchdog {
        let watched: Arc<Mutex<Option<(Call, Instant)>>> = Arc::default();
        let weak = Arc::downgrade(&watched);
        let look = move || -> Option<Call> {
            loop {
                std::thread::sleep(Duration::from_millis(50));
                let watched = weak.upgrade()?;
                let found = *watched.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if let Some((call, since)) = found
                    && call.limit.is_some_and(|limit| since.elapsed() > limit)
                {
                    return Some(call);
                }
            }
        };
        std::thread::spawn(move || {
            if let Some(call) = look() {
                late(call);
            }
        });
        Watchdog { watched }
    }

    /// Watches a call that begins now.
    pub fn watch(&self, call: Call) -> Watched<'_> {
        self.set(Some((call, Instant::now())));
        Watched { watchdog: self }
    }

    fn set(&self, to: Option<(Call, Instant)>) {
        *self.watched.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = to;
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.watchdog.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_call_beyond_its_limit_is_reported() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let watchdog = Watchdog::start(move |call| sender.send(call).unwrap());
        let call = |name, limit| Call { name, step: 1, limit };
        drop(watchdog.watch(call("short", Some(Duration::from_secs(60)))));
        let _free = watchdog.watch(call("without a limit", None));
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
        let _late = watchdog.watch(call("late", Some(Duration::from_millis(20))));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(20)).unwrap().name, "late");
    }
}
