//! `ops::rope`, in place. The ceiling is memory: queries and keys are read and written once, so compare the rate that is
//! shown (bytes read and written) with that of a copy.

use criterion::{Criterion, Throughput};
use std::hint::black_box;
use taper::ops::heads::Heads;
use taper::ops::rope::{RopeTable, cost::cost, cpu};

/// One forward rotation of a batch, and the copy to compare with.
pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rope");
    let heads = Heads { n_head: 6, n_kv_head: 6, head_dim: 64 };
    let (b, t) = (8, 256);
    let table = RopeTable::new(t, heads.head_dim, 10_000.0).expect("a table");
    let mut qkv = vec![0.5f32; b * t * heads.packed()];
    let mut copy = vec![0.0f32; b * t * heads.packed()];
    group.throughput(Throughput::Bytes(4 * cost(b * t, heads).forward.activations as u64));
    group.bench_function("B8 T256 H6 D64", |bencher| {
        bencher.iter(|| cpu::rotate(&mut qkv, heads, table.cos().f32(), table.sin().f32(), None, cpu::Turn::Forward));
    });
    group.throughput(Throughput::Bytes(8 * copy.len() as u64));
    group.bench_function("copy of all", |bencher| {
        bencher.iter(|| black_box(&mut copy).copy_from_slice(black_box(&qkv)));
    });
    group.finish();
}
