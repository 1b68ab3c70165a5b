//! `ops::candidates`: one row of GPT-2's vocabulary.

use std::hint::black_box;

use taper::ops::candidates::{cost, cpu};

const V: usize = 50_257;

/// Measures the definition (on a GPU `taper bench sample` does).
pub fn bench(c: &mut criterion::Criterion) {
    let row: Vec<f32> = (0..V).map(|i| ((i * 7919) % 10_007) as f32 / 1000.0).collect();
    let mut group = c.benchmark_group("candidates");
    group.throughput(criterion::Throughput::Bytes(cost::bytes(V) as u64));
    group.bench_function("forward", |b| b.iter(|| cpu::candidates(black_box(&row), V, V, &[1.25])));
    group.finish();
}
