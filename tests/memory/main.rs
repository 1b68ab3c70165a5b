//! What memory is taken: tests of the buffer pool's counters, which belong to the process, and of its allocator. They take
//! turns, and stand in no binary with others.

#[path = "../common/models.rs"]
mod models;
mod tape;
mod training;

use std::sync::{Mutex, MutexGuard};

/// Waits until no other test of this binary runs.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poison| poison.into_inner())
}
