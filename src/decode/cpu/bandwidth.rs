//! How fast this machine reads memory: the ceiling of generating one sequence.

use std::time::Instant;

use super::matrix::Buffer;
use super::pool::Pool;
use crate::ops::lanes;

/// Bytes per second that so many threads read of memory that no cache holds, kept and shared out as weights are: the best of
/// a few rounds. It takes half a second or so.
pub fn read_bandwidth(threads: usize) -> f64 {
    const BYTES: usize = 512 << 20;
    const TASK: usize = 1 << 18;
    const ROUNDS: usize = 12;
    let mut memory = Buffer::zeroed_whole(BYTES);
    // Written once, so that it has pages of its own.
    memory.bytes_mut().iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let floats: &[f32] = memory.of();
    let mut pool = Pool::new(threads);
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        pool.run(BYTES / TASK, &|_, task| {
            let part = &floats[task * (TASK / 4)..(task + 1) * (TASK / 4)];
            std::hint::black_box(lanes::total(part));
        });
        best = best.min(began.elapsed().as_secs_f64());
    }
    BYTES as f64 / best
}
