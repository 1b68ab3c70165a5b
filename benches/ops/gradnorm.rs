//! `ops::gradnorm`. The ceiling is memory: every gradient is read once.

use super::operator::normal;
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use taper::ops::gradnorm::{cost, cpu};

/// The gradients of 16 million parameters: more than any cache holds.
pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gradnorm");
    let grads = normal(&[1 << 24]);
    group.throughput(Throughput::Bytes((cost::BYTES_PER_PARAMETER as u64) << 24));
    group.bench_function("sum of squares", |bencher| {
        bencher.iter(|| cpu::sum_of_squares(black_box(grads.f32())));
    });
    // Only done when the sum is not finite, and slowest when only the sum overflowed.
    group.bench_function("search for what is not finite", |bencher| {
        bencher.iter(|| cpu::first_nonfinite(black_box(grads.f32())));
    });
    group.finish();
}
