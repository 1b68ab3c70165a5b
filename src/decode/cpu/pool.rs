//! A few threads for work of microseconds.
//!
//! A token of a small model is some sixty matrix products of 10 to 100 microseconds each. Waking threads for each would
//! cost as much again, so these spin for a while after their last work, and only then sleep. Tasks are claimed one by one,
//! and a thread that comes late (asleep, or the machine is busy) is not waited for: only tasks under way are. What a task
//! computes must not depend on who runs it; then nothing depends on the number of threads.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Turns of the processor's pause instruction before a waiting thread offers its core to others, and then before it sleeps.
const SPINS: u32 = if cfg!(miri) { 4 } else { 4_000 };
const YIELDS: u32 = if cfg!(miri) { 4 } else { 2_000 };

/// The low bits of the gate count the threads inside a job; the next one says that it is open, the others number it.
const OPEN: u64 = 1 << 16;
const EPOCH: u64 = OPEN << 1;

/// A job: called with the number of the thread and of the task.
type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

struct Job {
    work: *const Work<'static>,
    tasks: usize,
}

struct Shared {
    gate: AtomicU64,
    /// Written while the gate is closed and nobody is inside, read by those inside.
    job: UnsafeCell<Option<Job>>,
    next: AtomicUsize,
    sleepers: AtomicUsize,
    asleep: Mutex<()>,
    wake: Condvar,
    quit: AtomicBool,
    panicked: AtomicBool,
}

// SAFETY: `job` is written only in `Pool::run`, which has `&mut Pool`, while the gate is closed and nobody is inside, and read only
// inside the gate; the closure it points to is Sync, so threads may call it at the same time.
unsafe impl Sync for Shared {}
// SAFETY: what is not Send is the pointer in `job`; it is followed only while `Pool::run`, which borrows the closure, waits.
unsafe impl Send for Shared {}

impl Shared {
    /// Runs tasks until there are none left. The caller is inside the gate.
    fn work(&self, thread: usize) {
        // SAFETY: inside the gate the job stands, and its closure is borrowed by `run`, which waits for us.
        let (work, tasks) = unsafe {
            let job = (*self.job.get()).as_ref().expect("a job while the gate is open");
            (&*job.work, job.tasks)
        };
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            work(thread, task);
        }
    }

    /// Waits until another job than `last` has been announced, or the end.
    fn wait(&self, last: u64) {
        let same = || self.gate.load(Ordering::Acquire) / EPOCH == last && !self.quit.load(Ordering::Acquire);
        for _ in 0..SPINS {
            if !same() {
                return;
            }
            std::hint::spin_loop();
        }
        for _ in 0..YIELDS {
            if !same() {
                return;
            }
            std::thread::yield_now();
        }
        let mut asleep = self.asleep.lock().unwrap_or_else(|poison| poison.into_inner());
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // The announcer writes the gate, then reads the sleepers; here it is the other way round: one of both sees.
        fence(Ordering::SeqCst);
        while same() {
            asleep = self.wake.wait(asleep).unwrap_or_else(|poison| poison.into_inner());
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn serve(&self, thread: usize) {
        let mut last = 0;
        loop {
            self.wait(last);
            if self.quit.load(Ordering::Acquire) {
                return;
            }
            let gate = self.gate.load(Ordering::Acquire);
            if gate & OPEN == 0 {
                last = gate / EPOCH;
            } else if self.gate.compare_exchange(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                last = gate / EPOCH;
                if catch_unwind(AssertUnwindSafe(|| self.work(thread))).is_err() {
                    self.panicked.store(true, Ordering::Release);
                }
                self.gate.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.asleep.lock().unwrap_or_else(|poison| poison.into_inner()));
            self.wake.notify_all();
        }
    }
}

/// Threads that wait for work; they end when this is dropped.
pub struct Pool {
    shared: Arc<Shared>,
    others: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Pool {
    /// The calling thread and `threads - 1` others (fewer where the system gives no more).
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            asleep: Mutex::new(()),
            wake: Condvar::new(),
            quit: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let start = |thread: usize| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("decode-{thread}"));
            builder.spawn(move || shared.serve(thread)).ok()
        };
        let others = (1..threads.clamp(1, 256)).map_while(start).collect();
        Pool { shared, others }
    }

    /// How many threads work, the caller's included.
    pub fn threads(&self) -> usize {
        self.others.len() + 1
    }

    /// Calls `work(thread, task)` once for each task below `tasks`, on some thread below [`Pool::threads`]; no two tasks run
    /// on one thread at the same time.
    ///
    /// # Panics
    /// If a task does.
    pub fn run(&mut self, tasks: usize, work: &Work<'_>) {
        if tasks <= 1 || self.others.is_empty() {
            (0..tasks).for_each(|task| work(0, task));
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime is changed, and `Closing` waits for all who use it before `work` can go.
        let work = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        // SAFETY: the gate is closed and nobody is inside, since the run before has waited, and this one is exclusive.
        unsafe { *shared.job.get() = Some(Job { work, tasks }) };
        shared.next.store(0, Ordering::Relaxed);
        let epoch = shared.gate.load(Ordering::Relaxed) / EPOCH + 1;
        shared.gate.store((epoch * EPOCH) | OPEN, Ordering::SeqCst);
        shared.ring();
        let closing = Closing(shared);
        shared.work(0);
        drop(closing);
        assert!(!shared.panicked.swap(false, Ordering::AcqRel), "a decoding thread has panicked");
    }
}

/// Closes the gate and waits until all have left, also when the caller's own task panics.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut turns = 0u32;
        while self.0.gate.load(Ordering::Acquire) & (OPEN - 1) != 0 {
            turns += 1;
            if turns < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        drop(self.shared.asleep.lock().unwrap_or_else(|poison| poison.into_inner()));
        self.shared.wake.notify_all();
        for thread in self.others.drain(..) {
            // Its panic, if any, has been told by `run`.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_threads() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads);
            for round in 0..if cfg!(miri) { 12 } else { 2_000usize } {
                let tasks = round % 9;
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|thread, task| {
                    assert!(thread < threads);
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                if round % 500 == 0 {
                    // Long enough for the threads to fall asleep.
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
            }
        }
    }

    #[test]
    fn a_panic_in_a_task_is_the_callers_and_the_pool_goes_on() {
        let mut pool = Pool::new(3);
        for _ in 0..if cfg!(miri) { 2 } else { 20 } {
            let told = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|_, task| assert!(task != 5))));
            assert!(told.is_err());
            let sum = AtomicUsize::new(0);
            pool.run(8, &|_, task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
            assert_eq!(sum.load(Ordering::Relaxed), 28);
        }
    }
}
