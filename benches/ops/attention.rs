//! `ops::attention`. The ceiling is a large matrix product on the same cores: "gemm 1024". Rates count what causal
//! attention needs, half of the full square: forward 4, backward 10 FLOP for each head element of each visible pair.

use criterion::{Criterion, Throughput};
use std::hint::black_box;
use taper::ops::attention::cost::{Pairs, bytes_of_one_query, cost};
use taper::ops::attention::{AttentionDropout, Heads, cpu};
use taper::ops::matmul::{Into, Mat, MatMut, Threads, gemm};
use taper::random::{Mask, Purpose, fill_normal};

/// Forward and backward of two shapes, with and without dropout; one token over a cache; the ceiling.
pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    let normal = |len: usize| {
        let mut values = vec![0.0; len];
        fill_normal(1, Purpose::Test, "bench", 0, &mut values);
        values
    };
    let n = 1024;
    let (a, mut c) = (normal(n * n), vec![0.0; n * n]);
    group.throughput(Throughput::Elements(2 * (n * n * n) as u64));
    group.bench_function("gemm 1024", |bencher| {
        let (a, b) = (Mat::new(&a, n, n), Mat::new(&a, n, n));
        bencher.iter(|| gemm(MatMut::new(black_box(&mut c), n, n), Into::Set, 1.0, a, b, Threads::All));
    });
    for (b, h, t, d) in [(8, 6, 256, 64), (1, 12, 1024, 64)] {
        let heads = Heads { n_head: h, n_kv_head: h, head_dim: d };
        let extent = cpu::Extent { b, t, heads, documents: None };
        let (qkv, dout) = (normal(b * t * heads.packed()), normal(b * t * heads.width()));
        let (mut out, mut lse) = (vec![0.0; dout.len()], vec![0.0; b * h * t]);
        let mut dqkv = vec![0.0; qkv.len()];
        let cost = cost(b, t, heads, Pairs::Causal);
        let sequences: Vec<u32> = (0..b as u32).collect();
        let mask = Mask::new(1, 2, 3, 4, 0.1);
        for (name, dropout) in [("", None), (" dropout", Some(AttentionDropout { mask, sequences: &sequences }))] {
            group.throughput(Throughput::Elements(cost.forward.flops as u64));
            group.bench_function(format!("forward B{b} H{h} T{t} D{d}{name}"), |bencher| {
                bencher.iter(|| cpu::forward(&mut out, &mut lse, black_box(&qkv), extent, dropout));
            });
            group.throughput(Throughput::Elements(cost.backward.flops as u64));
            group.bench_function(format!("backward B{b} H{h} T{t} D{d}{name}"), |bencher| {
                bencher.iter(|| cpu::backward(&mut dqkv, &dout, black_box(&qkv), &out, &lse, extent, dropout));
            });
        }
    }
    let heads = Heads { n_head: 12, n_kv_head: 12, head_dim: 64 };
    let (capacity, past) = (1024, 1000);
    let (mut keys, mut values) = (normal(12 * capacity * 64), normal(12 * capacity * 64));
    let qkv = normal(heads.packed());
    let mut out = vec![0.0; heads.width()];
    // Here the ceiling is memory: every key and value is read once.
    group.throughput(Throughput::Bytes(bytes_of_one_query(heads, past, 4) as u64));
    group.bench_function("one token H12 D64 past 1000", |bencher| {
        let extent = cpu::Extent { b: 1, t: 1, heads, documents: None };
        bencher.iter(|| {
            cpu::forward_cached(&mut out, black_box(&qkv), &mut keys, &mut values, extent, capacity, past);
        });
    });
    group.finish();
}
