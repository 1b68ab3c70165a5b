//! Rates that are measured by doing something for a while: matrix products, copies, whatever a closure does.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::ops::matmul::{Into, Mat, MatMut, Threads, gemm};

/// Runs `work`, which does `amount` of something, for a while; gives the best rate per nanosecond. The best, because what
/// else the machine does can only make it slower.
pub(crate) fn best_rate(amount: f64, patience: Duration, mut work: impl FnMut()) -> f64 {
    work();
    let (began, mut best) = (Instant::now(), f64::INFINITY);
    let mut rounds = 0;
    while rounds < 3 || began.elapsed() < patience {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_nanos() as f64);
        rounds += 1;
    }
    amount / best.max(1.0)
}

/// float32 matrix products of all threads, in GFLOP/s.
pub(crate) fn gemm_gflops(patience: Duration) -> f64 {
    let n = 768;
    let (a, b, mut c) = (vec![0.5f32; n * n], vec![0.25f32; n * n], vec![0.0f32; n * n]);
    best_rate(2.0 * (n * n * n) as f64, patience, || {
        gemm(
            MatMut::new(black_box(&mut c), n, n),
            Into::Set,
            1.0,
            Mat::new(&a, n, n),
            Mat::new(&b, n, n),
            Threads::All,
        );
    })
}

/// Copying between buffers that no cache holds, by all threads, bytes read and written together, in GB/s.
pub(crate) fn copy_gbs(patience: Duration) -> f64 {
    use rayon::prelude::*;
    let len = 16 << 20;
    let (from, mut to) = (vec![1.0f32; len], vec![0.0f32; len]);
    let share = len.div_ceil(rayon::current_num_threads());
    best_rate(8.0 * len as f64, patience, || {
        let pairs = black_box(&mut to).par_chunks_mut(share).zip(from.par_chunks(share));
        pairs.for_each(|(to, from)| to.copy_from_slice(from));
    })
}
