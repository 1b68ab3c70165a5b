//! Work of rank 0 alone while the others wait, which may be for hours.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::ranks::WORK_OF_ROOT;
use super::{Call, Ranks};
use crate::error::{Error, Result};

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
    /// Has rank 0 do something while the others wait; they get `None`. If it fails, all fail.
    ///
    /// # Errors
    /// Those of `work`, on every rank.
    pub fn on_root<T>(&self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let limit = self.timeout() * WORK_OF_ROOT;
        self.root_within(Call { limit: Some(limit), ..self.call(name) }, work)
    }

    /// As [`Ranks::on_root`], for work that may take hours: the others wait as long as rank 0's process lives. (Where
    /// collectives are for the main thread alone, rank 0 cannot tell that it does, and they wait without a limit.)
    ///
    /// # Errors
    /// Those of `work`, on every rank.
    pub fn on_root_for_long<T>(&self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let call = self.call(name);
        if !self.can_overlap() {
            return self.root_within(Call { limit: None, ..call }, work);
        }
        if !self.is_root() {
            self.wait_for_root(call)?;
            return self.root_within(call, work);
        }
        let (found, told) = self.work_with_pulse(call, work);
        // If the others are gone, too, the work's own error is the one to show.
        self.root_within(call, || found.and_then(|found| told.map(|()| found)))
    }

    fn root_within<T>(&self, call: Call, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        if self.size() == 1 {
            return work().map(Some);
        }
        if self.is_root() {
            let result = work();
            let verdict = result.as_ref().err().map(|error| format!("{}{error}", error.exit_code()));
            // If the others are gone, too, the first error is the one to show.
            let told = self.gather_within(call, verdict.unwrap_or_default().as_bytes());
            return result.and_then(|found| told.map(|_| Some(found)));
        }
        let verdict = self.gather_within(call, &[])?.swap_remove(0);
        let verdict = String::from_utf8_lossy(&verdict).into_owned();
        match verdict.split_at_checked(1) {
            None => Ok(None),
            Some(("2", why)) => Err(Error::Usage(why.into())),
            Some(("3", why)) => Err(Error::Interrupted(why.into())),
            Some((_, why)) => Err(Error::Training(format!("rank 0: {why}"))),
        }
    }

    /// Does `work` on rank 0 first, then on the others: for what rank 0 leaves on disk for them.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn root_first<T>(&self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_root() {
            let done = self.on_root_for_long(name, work)?;
            return done.ok_or_else(|| Error::Training("rank 0 has no result of its own work".into()));
        }
        self.on_root_for_long(name, || Ok(()))?;
        work()
    }

    /// Gives every rank what `work` of rank 0 returned.
    ///
    /// # Errors
    /// Those of `work`, on every rank.
    pub fn from_root(&self, name: &'static str, work: impl FnOnce() -> Result<String>) -> Result<String> {
        let found = self.on_root_for_long(name, work)?.unwrap_or_default();
        let all = self.gather(name, found.as_bytes())?;
        Ok(String::from_utf8_lossy(&all[0]).into_owned())
    }

    /// Runs `work` while another thread tells the other ranks, twice a second, that this process lives. Gives what the
    /// work has found, and whether the others could be told.
    fn work_with_pulse<T>(&self, call: Call, work: impl FnOnce() -> T) -> (T, Result<()>) {
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
    fn wait_for_root(&self, call: Call) -> Result<()> {
        while !self.beat(call, false)? {}
        Ok(())
    }

    /// One sign of life; whether rank 0's work is over.
    fn beat(&self, call: Call, is_over: bool) -> Result<bool> {
        Ok(self.gather_within(call, &[u8::from(is_over)])?[0] != [0])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::collective::local;

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
