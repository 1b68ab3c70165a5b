//! Continuous batching: one thread owns the engine, and every step adds a token to every text that has a slot.
//!
//! New texts join between steps, first come first served, their prompt fed in one call; texts that are over, and those whose
//! client has gone, leave. While texts are written, the prompts that join in one step are bounded ([`JOINING`]), so that
//! nobody waits long for a next token; the bound decides when a text begins, never what it says.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::metrics::Metrics;
use crate::data::tokenizer::Tokenizer;
use crate::decode::Decode;
use crate::sample::session::{self, Plan, Session, Step};

/// Prompt tokens that may join in one step; a longer prompt joins alone.
const JOINING: usize = 1024;

/// A text to write.
pub(super) struct Job {
    /// Which of the request's texts it is.
    pub index: usize,
    /// The prompt, at least one token and no more than the context.
    pub prompt: Vec<u32>,
    pub plan: Plan,
    /// Where the steps go. Unbounded, and yet small: a text has a limited number of tokens.
    pub out: UnboundedSender<Event>,
    /// When it was asked for.
    pub since: Instant,
}

/// What happened to a text.
#[derive(Debug)]
pub(super) enum Event {
    /// Another step of text `index`.
    Step(usize, Step),
    /// The request cannot continue; nothing follows.
    Failed(Failure),
}

/// Why a request cannot continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The model or the device failed.
    Engine(String),
    /// The server ends.
    Stopping,
}

/// Why jobs were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too many wait already.
    Full,
    /// The server ends.
    Stopping,
}

/// What HTTP and the batch thread share.
pub(super) struct Batch {
    state: Mutex<State>,
    wake: Condvar,
    slots: usize,
    /// Texts that may wait beyond the slots.
    queue: usize,
    grace: Duration,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    active: usize,
    /// When everything must be over.
    deadline: Option<Instant>,
    ended: bool,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Batch {
    pub(super) fn new(slots: usize, queue: usize, grace: Duration) -> Batch {
        Batch { state: Mutex::default(), wake: Condvar::new(), slots, queue, grace }
    }

    /// The state is a queue and numbers: whole at any time, whoever panicked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most texts that can be under way at once, waiting or written.
    pub(super) fn most(&self) -> usize {
        self.slots + self.queue
    }

    /// Takes all of a request's jobs, or none.
    pub(super) fn submit(&self, jobs: Vec<Job>) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.deadline.is_some() || state.ended {
            return Err(Refusal::Stopping);
        }
        state.waiting.retain(|job| !job.out.is_closed());
        if state.waiting.len() + state.active + jobs.len() > self.most() {
            return Err(Refusal::Full);
        }
        state.waiting.extend(jobs);
        self.wake.notify_one();
        Ok(())
    }

    /// Takes no more jobs; those at hand may end within the grace.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.deadline.get_or_insert_with(|| Instant::now() + self.grace);
        self.wake.notify_one();
    }

    pub(super) fn is_stopping(&self) -> bool {
        let state = self.lock();
        state.deadline.is_some() || state.ended
    }

    /// Texts that wait, and texts that are written.
    pub(super) fn load(&self) -> (usize, usize) {
        let mut state = self.lock();
        state.waiting.retain(|job| !job.out.is_closed());
        (state.waiting.len(), state.active)
    }
}

/// A text in a slot.
struct Active<'t> {
    job: Job,
    session: Session<'t>,
    /// When its last token came.
    last: Option<Instant>,
}

/// Whatever happens on the thread, nobody waits for it afterwards.
struct Ending<'a>(&'a Batch);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        state.active = 0;
        let failure = match state.deadline {
            Some(_) => Failure::Stopping,
            None => Failure::Engine("the engine has stopped; restart the server".into()),
        };
        for job in state.waiting.drain(..) {
            let _ = job.out.send(Event::Failed(failure.clone()));
        }
    }
}

/// The batch thread: runs until [`Batch::stop`], and then to the end of all texts or of the grace.
pub(super) fn run(batch: &Batch, mut engine: Box<dyn Decode>, tokenizer: &Tokenizer, metrics: &Metrics) {
    let _ending = Ending(batch);
    let mut slots: Vec<Option<Active<'_>>> = (0..engine.slots()).map(|_| None).collect();
    let mut logits = Vec::new();
    while let Some(joining) = next(batch, &mut slots, &mut *engine, metrics) {
        for job in joining {
            join(job, &mut slots, tokenizer, engine.capacity(), metrics);
        }
        step(batch, &mut slots, &mut *engine, &mut logits, metrics);
    }
    for active in slots.into_iter().flatten() {
        metrics.sequence("cut");
        let _ = active.job.out.send(Event::Failed(Failure::Stopping));
    }
}

/// Waits for something to do and takes the jobs that join; none when it is time to end.
fn next(
    batch: &Batch,
    slots: &mut [Option<Active<'_>>],
    engine: &mut dyn Decode,
    metrics: &Metrics,
) -> Option<Vec<Job>> {
    for (slot, place) in slots.iter_mut().enumerate() {
        if place.as_ref().is_some_and(|active| active.job.out.is_closed()) {
            *place = None;
            engine.truncate(slot, 0);
            metrics.sequence("cancelled");
        }
    }
    let active = slots.iter().flatten().count();
    let mut state = batch.lock();
    loop {
        state.active = active;
        state.waiting.retain(|job| !job.out.is_closed());
        if let Some(deadline) = state.deadline
            && (Instant::now() >= deadline || (active == 0 && state.waiting.is_empty()))
        {
            return None;
        }
        if active > 0 || !state.waiting.is_empty() {
            break;
        }
        state = batch.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    let (mut joining, mut tokens) = (Vec::new(), 0);
    while active + joining.len() < slots.len()
        && let Some(job) = state.waiting.front()
        && (joining.is_empty() || tokens + job.prompt.len() <= JOINING)
    {
        tokens += job.prompt.len();
        joining.extend(state.waiting.pop_front());
    }
    state.active = active + joining.len();
    Some(joining)
}

/// Puts a job in a free slot.
fn join<'t>(
    mut job: Job,
    slots: &mut [Option<Active<'t>>],
    tokenizer: &'t Tokenizer,
    capacity: usize,
    metrics: &Metrics,
) {
    let (prompt, plan) = (std::mem::take(&mut job.prompt), job.plan.clone());
    metrics.began(prompt.len(), job.since.elapsed());
    match (Session::new(tokenizer, prompt, capacity, plan), slots.iter_mut().find(|slot| slot.is_none())) {
        (Ok(session), Some(slot)) => *slot = Some(Active { job, session, last: None }),
        (Ok(_), None) => fail(&job, "there is no free slot", metrics),
        (Err(error), _) => fail(&job, &error.to_string(), metrics),
    }
}

fn fail(job: &Job, message: &str, metrics: &Metrics) {
    metrics.sequence("failed");
    let _ = job.out.send(Event::Failed(Failure::Engine(message.to_string())));
}

/// One token for every text in a slot.
fn step(
    batch: &Batch,
    slots: &mut [Option<Active<'_>>],
    engine: &mut dyn Decode,
    logits: &mut Vec<f32>,
    metrics: &Metrics,
) {
    let mut texts: Vec<_> =
        slots.iter_mut().enumerate().filter_map(|(slot, place)| Some((slot, &mut place.as_mut()?.session))).collect();
    if texts.is_empty() {
        return;
    }
    let fed: Vec<usize> = texts.iter().map(|(slot, _)| *slot).collect();
    let steps: Vec<Result<Step, String>> = match session::step(engine, &mut texts, logits) {
        Ok(steps) => steps.into_iter().map(|step| step.map_err(|error| error.to_string())).collect(),
        Err(error) => fed.iter().map(|_| Err(error.to_string())).collect(),
    };
    for (slot, step) in fed.into_iter().zip(steps) {
        let Some(active) = &mut slots[slot] else { continue };
        let over = match step {
            Ok(step) => {
                let now = Instant::now();
                if step.token.is_some() {
                    match active.last.replace(now) {
                        None => metrics.first_token(active.job.since.elapsed()),
                        Some(last) => metrics.next_token(now - last),
                    }
                }
                let finished = step.finish.is_some();
                if finished {
                    // Before the client hears of it: its next request shall find the slot free, and the counts right.
                    batch.lock().active -= 1;
                    metrics.sequence(if active.job.out.is_closed() { "cancelled" } else { "finished" });
                }
                // A client that has gone is noticed before the next step.
                let _ = active.job.out.send(Event::Step(active.job.index, step));
                finished
            }
            Err(message) => {
                fail(&active.job, &message, metrics);
                true
            }
        };
        if over {
            slots[slot] = None;
            engine.truncate(slot, 0);
        }
    }
}
