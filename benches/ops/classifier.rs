//! `ops::classifier`. What limits it is arithmetic: 2 N C V operations for the logits, and twice as many for the two
//! gradients.

use super::operator::{B, C, T, normal};
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use taper::ops::classifier::{cost::cost, cpu};

/// The output layer of GPT-2 over a batch: losses alone, and losses with both gradients. Rates are operations per second.
pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("classifier");
    group.sample_size(10);
    let (n, vocabulary) = (B * T, 50_257);
    let (x, w) = (normal(&[n, C]), normal(&[vocabulary, C]));
    let targets: Vec<u32> = (0..n).map(|i| (i * 7919 % vocabulary) as u32).collect();
    let mut losses = vec![0.0; n];
    let cost = cost(n, C, vocabulary);
    group.throughput(Throughput::Elements(cost.forward.flops as u64));
    group.bench_function("forward", |bencher| {
        bencher.iter(|| cpu::forward(&mut losses, black_box(x.f32()), w.f32(), &targets, vocabulary));
    });
    let (mut dx, mut dw) = (vec![0.0; n * C], vec![0.0; vocabulary * C]);
    group.throughput(Throughput::Elements(cost.flops() as u64));
    group.bench_function("forward and backward", |bencher| {
        bencher.iter(|| {
            let scale = 1.0 / n as f32;
            let (x, dw) = (black_box(x.f32()), Some(&mut dw[..]));
            cpu::forward_backward(&mut losses, &mut dx, dw, x, w.f32(), &targets, &[], vocabulary, scale);
        });
    });
    group.finish();
}
