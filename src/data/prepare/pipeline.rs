//! Encoding on several threads with the results in order, and the bytes in flight bounded.
//!
//! ```text
//! reader ─ jobs ─► encoders ─ one channel for each job ─► writer (the calling thread)
//! ```
//!
//! The reader puts each job into a queue for whichever encoder is free, and the job's own channel into a second queue
//! for the writer, who therefore sees the results in the order of reading whoever made them. Nobody waits at a barrier:
//! while the writer waits for the disk, the others continue, until the [`Budget`] is spent. A job is charged before it
//! is queued for the most that it can come to, its text and an id of four bytes for every byte of it; once encoded, for
//! its ids; once written, for nothing.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::data::text::Piece;
use crate::error::{Error, Result};

/// How many bytes of text make a job: enough that handing it over costs nothing, few enough that many are on their way.
pub(in crate::data) const JOB_BYTES: usize = 256 << 10;

/// The most that one byte of text comes to while it is encoded: itself, and an id.
const CHARGE: usize = 1 + size_of::<u32>();

/// Pieces to be encoded by one thread, in order.
#[derive(Default)]
pub(in crate::data) struct Job {
    pub pieces: Vec<Piece>,
    /// How many bytes of the inputs were read with them.
    pub consumed: u64,
    /// What could not be read after them.
    pub failed: Option<Error>,
}

impl Job {
    fn bytes(&self) -> usize {
        // A piece costs some memory of its own, so that many tiny documents do not pile up.
        self.pieces.iter().map(|piece| piece.text.len() * CHARGE + size_of::<Piece>()).sum()
    }
}

/// A job that was encoded.
pub(in crate::data) struct Encoded {
    /// The pieces, whose texts are gone, and where the ids of each end.
    pub pieces: Vec<(Piece, usize)>,
    pub ids: Vec<u32>,
    pub consumed: u64,
    /// What could not be read or encoded after them.
    pub failed: Option<Error>,
    charged: usize,
}

impl Encoded {
    /// The pieces, each with its ids.
    pub fn pieces(&self) -> impl Iterator<Item = (&Piece, &[u32])> {
        let mut start = 0;
        self.pieces.iter().map(move |(piece, end)| (piece, &self.ids[std::mem::replace(&mut start, *end)..*end]))
    }
}

/// How many bytes are in flight, and how many may be.
pub(in crate::data) struct Budget {
    limit: usize,
    account: Mutex<Account>,
    freed: Condvar,
}

#[derive(Default)]
struct Account {
    used: usize,
    peak: usize,
    closed: bool,
}

impl Budget {
    /// What preparation allows itself with so many encoders: 32 MiB, or 4 MiB for each of more than eight.
    pub fn for_threads(threads: usize) -> Budget {
        Budget::new((threads * (4 << 20)).max(32 << 20))
    }

    pub fn new(limit: usize) -> Budget {
        Budget { limit, account: Mutex::default(), freed: Condvar::new() }
    }

    /// The most bytes that were in flight so far.
    #[cfg(test)]
    pub fn peak(&self) -> usize {
        self.account().peak
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        // Plain numbers, changed in one step each.
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `bytes` more may be in flight, or nothing else is; false once the budget is closed.
    fn take(&self, bytes: usize) -> bool {
        let fits = |account: &Account| account.closed || account.used == 0 || account.used + bytes <= self.limit;
        let waited = self.freed.wait_while(self.account(), |account| !fits(account));
        let mut account = waited.unwrap_or_else(PoisonError::into_inner);
        if account.closed {
            return false;
        }
        account.used += bytes;
        account.peak = account.peak.max(account.used);
        true
    }

    fn give(&self, bytes: usize) {
        self.account().used -= bytes;
        self.freed.notify_all();
    }

    fn closed(&self) -> bool {
        self.account().closed
    }
}

/// Ends the wait of whoever waits for a budget, however its scope is left.
struct Closing<'a>(&'a Budget);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.account().closed = true;
        self.0.freed.notify_all();
    }
}

/// Runs `next` in a thread of its own until it gives `None` or a job that failed, `encode` in `threads` others, and
/// `write`, with the results in the order of the jobs, in the calling one. The first error, in that order, ends it. A
/// budget serves once.
pub(in crate::data) fn run(
    budget: &Budget,
    threads: usize,
    mut next: impl FnMut() -> Option<Job> + Send,
    encode: impl Fn(&Piece, &mut Vec<u32>) -> Result<()> + Sync,
    mut write: impl FnMut(&Encoded) -> Result<()>,
) -> Result<()> {
    let (work, jobs) = channel::<(Job, usize, SyncSender<Encoded>)>();
    let (order, results) = channel::<Receiver<Encoded>>();
    let (jobs, encode) = (&Mutex::new(jobs), &encode);
    std::thread::scope(|scope| {
        let _closing = Closing(budget);
        scope.spawn(move || {
            while let Some(job) = next() {
                let last = job.failed.is_some();
                let (charged, (sender, result)) = (job.bytes(), sync_channel(1));
                // A writer that has gone away has failed, and says so itself.
                let sent =
                    budget.take(charged) && work.send((job, charged, sender)).is_ok() && order.send(result).is_ok();
                if last || !sent {
                    break;
                }
            }
        });
        for _ in 0..threads {
            scope.spawn(move || {
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((job, charged, sender)) = job else { break };
                    if !budget.closed() {
                        let _ = sender.send(encode_job(budget, job, charged, encode));
                    }
                }
            });
        }
        for result in results {
            // No result comes only from a thread that panicked; leaving the scope continues with the panic.
            let Ok(mut encoded) = result.recv() else { break };
            write(&encoded)?;
            let (charged, failed) = (encoded.charged, encoded.failed.take());
            drop(encoded);
            budget.give(charged);
            failed.map_or(Ok(()), Err)?;
        }
        Ok(())
    })
}

fn encode_job(
    budget: &Budget,
    job: Job,
    charged: usize,
    encode: &impl Fn(&Piece, &mut Vec<u32>) -> Result<()>,
) -> Encoded {
    let bytes: usize = job.pieces.iter().map(|piece| piece.text.len()).sum();
    // Prose has some four bytes to an id.
    let mut ids = Vec::with_capacity(bytes / 3);
    let mut encoded =
        Encoded { pieces: Vec::new(), ids: Vec::new(), consumed: job.consumed, failed: job.failed, charged };
    for mut piece in job.pieces {
        if let Err(error) = encode(&piece, &mut ids) {
            encoded.failed = Some(error);
            break;
        }
        piece.text = String::new();
        encoded.pieces.push((piece, ids.len()));
    }
    ids.shrink_to_fit();
    // Never more than was charged before, unless a tokenizer makes several ids of a byte.
    encoded.charged = charged.min(ids.len() * size_of::<u32>() + encoded.pieces.len() * size_of::<Piece>());
    encoded.ids = ids;
    budget.give(charged - encoded.charged);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn piece(number: u64, bytes: usize) -> Piece {
        Piece { text: "x".repeat(bytes), starts_document: true, source: 0, piece: number, place: 0 }
    }

    fn jobs(count: u64, bytes: usize) -> impl FnMut() -> Option<Job> + Send {
        let mut numbers = 0..count;
        move || numbers.next().map(|n| Job { pieces: vec![piece(2 * n, bytes), piece(2 * n + 1, 1)], ..Job::default() })
    }

    /// Bytes of text that live between the reader and the encoders, and of ids between those and the writer, counted
    /// apart from the budget, with encoders that are faster than the writer, and the other way round.
    #[test]
    fn bytes_in_flight_stay_within_the_budget() {
        for (encode_ms, write_ms) in [(0, 2), (2, 0)] {
            let budget = Budget::new(64 * 1024);
            let (live, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let add = |bytes: usize| {
                peak.fetch_max(live.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
            };
            let mut order = Vec::new();
            let encode = |piece: &Piece, ids: &mut Vec<u32>| {
                std::thread::sleep(std::time::Duration::from_millis(encode_ms));
                ids.extend(piece.text.bytes().map(u32::from));
                add(piece.text.len() * 4);
                Ok(())
            };
            let write = |encoded: &Encoded| {
                std::thread::sleep(std::time::Duration::from_millis(write_ms));
                for (piece, ids) in encoded.pieces() {
                    order.push(piece.piece);
                    live.fetch_sub(ids.len() * 4, Ordering::SeqCst);
                }
                Ok(())
            };
            run(&budget, 3, jobs(60, 1000), encode, write).unwrap();
            assert_eq!(order, (0..120).collect::<Vec<_>>());
            let (peak, charged) = (peak.into_inner(), budget.peak());
            assert!(charged <= 64 * 1024 && peak <= charged, "{peak} bytes of ids, {charged} charged");
            // Not by doing one thing at a time.
            assert!(charged > 20 * 1024, "{charged}");
            assert_eq!(budget.account().used, 0);
        }
    }

    /// One job that is more than the whole budget goes through alone.
    #[test]
    fn a_job_beyond_the_budget_waits_for_an_empty_pipeline() {
        let budget = Budget::new(100);
        let mut written = 0;
        let write = |encoded: &Encoded| {
            written += encoded.ids.len();
            Ok(())
        };
        let encode = |piece: &Piece, ids: &mut Vec<u32>| {
            ids.extend(piece.text.bytes().map(u32::from));
            Ok(())
        };
        run(&budget, 2, jobs(5, 1000), encode, write).unwrap();
        assert_eq!(written, 5 * 1001);
        assert!(budget.peak() < 2 * 1001 * CHARGE, "{}", budget.peak());
    }

    #[test]
    fn errors_come_after_what_was_before_them_and_nobody_is_left_waiting() {
        let failing = |at: u64| {
            move |piece: &Piece, ids: &mut Vec<u32>| {
                ids.push(piece.piece as u32);
                if piece.piece == at { Err(Error::usage("encoding")) } else { Ok(()) }
            }
        };
        fn keep(seen: &mut Vec<u32>) -> impl FnMut(&Encoded) -> Result<()> {
            |encoded| {
                encoded.pieces().for_each(|(_, ids)| seen.extend_from_slice(ids));
                Ok(())
            }
        }
        // While encoding, in the middle of a job.
        let mut seen = Vec::new();
        let error = run(&Budget::new(9000), 2, jobs(50, 1000), failing(21), keep(&mut seen)).unwrap_err();
        assert_eq!((error.to_string().as_str(), seen), ("encoding", (0..21).collect()));
        // While reading.
        let (mut given, mut seen) = (0, Vec::new());
        let reading = || {
            given += 1;
            let failed = (given == 7).then(|| Error::usage("reading"));
            Some(Job { pieces: vec![piece(given, 10)], failed, ..Job::default() })
        };
        let error = run(&Budget::new(100), 2, reading, failing(0), keep(&mut seen)).unwrap_err();
        assert_eq!((error.to_string().as_str(), seen), ("reading", (1..=7).collect()));
        // While writing, with the reader waiting for room.
        let write = |_: &Encoded| Err(Error::usage("writing"));
        let error = run(&Budget::new(6000), 2, jobs(1000, 1000), failing(u64::MAX), write).unwrap_err();
        assert_eq!(error.to_string(), "writing");
    }

    #[test]
    fn a_panic_of_an_encoder_goes_on_in_the_caller() {
        let encode = |piece: &Piece, _: &mut Vec<u32>| if piece.piece == 9 { panic!("broken") } else { Ok(()) };
        let call = || run(&Budget::new(6000), 2, jobs(100, 1000), encode, |_| Ok(()));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
    }
}
