//! Work of rank 0 alone that may take hours, while the others wait.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{Call, Ranks};
use crate::error::Result;

/// How often rank 0 tells that it lives.
const BEAT: Duration = Duration::from_millis(500);

/// Says that the work is over when it is dropped, a panic included.
struct Over<'w>(&'w (Mutex<bool>, Condvar));

impl Drop for Over<'_> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

impl Ranks {
    /// Runs `work` while another thread tells the other ranks, twice a second, that this process lives. Gives what the work has
    /// found, and whether the others could be told.
    pub(super) fn work_with_pulse<T>(&self, call: Call, work: impl FnOnce() -> T) -> (T, Result<()>) {
        let pause = call.limit.map_or(BEAT, |limit| BEAT.min(limit / 4));
        let over = (Mutex::new(false), Condvar::new());
        let (found, told) = std::thread::scope(|scope| {
            let beats = scope.spawn(|| {
                loop {
                    let waiting = over.0.lock().unwrap_or_else(PoisonError::into_inner);
                    let waited = over.1.wait_timeout_while(waiting, pause, |over| !*over);
                    let is_over = *waited.unwrap_or_else(PoisonError::into_inner).0;
                    if self.beat(call, is_over)? {
                        return Ok(());
                    }
                }
            });
            let guard = Over(&over);
            let found = work();
            drop(guard);
            (found, beats.join())
        });
        (found, told.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Waits until the work of rank 0 is over.
    ///
    /// # Errors
    /// If rank 0 is gone, or gives no sign of life within the limit of the call.
    pub(super) fn wait_for_root(&self, call: Call) -> Result<()> {
        while !self.beat(call, false)? {}
        Ok(())
    }

    /// One sign of life; whether rank 0's work is over.
    fn beat(&self, call: Call, is_over: bool) -> Result<bool> {
        let Some(group) = &self.group else { return Ok(true) };
        let mut all = vec![[0u8; 1]; group.size()];
        let mut slices: Vec<&mut [u8]> = all.iter_mut().map(|byte| &mut byte[..]).collect();
        group.all_gather(call, &[u8::from(is_over)], &mut slices)?;
        Ok(all[0] != [0])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::dist::local;
    use crate::error::Error;

    #[test]
    fn others_wait_longer_than_their_limit_while_rank_0_lives() {
        const LIMIT: Duration = Duration::from_millis(400);
        let work = |fails: bool| {
            std::thread::sleep(3 * LIMIT);
            if fails { Err(Error::Training("no space left".into())) } else { Ok(7) }
        };
        for fails in [false, true] {
            let begun = Instant::now();
            let found: Vec<_> = std::thread::scope(|scope| {
                let start = |(number, rank)| {
                    scope.spawn(move || {
                        let ranks = Ranks::of(Arc::new(rank), number);
                        ranks.set_timeout(LIMIT);
                        let found = ranks.on_root_for_long("work", || work(fails));
                        found.map_err(|error| error.to_string())
                    })
                };
                let threads: Vec<_> = local::group(2).into_iter().enumerate().map(start).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(begun.elapsed() >= 3 * LIMIT);
            match fails {
                false => assert_eq!(found, [Ok(Some(7)), Ok(None)]),
                true => assert!(
                    found.iter().all(|found| found.as_ref().is_err_and(|error| error.contains("no space left"))),
                    "{found:?}"
                ),
            }
        }
    }
}
