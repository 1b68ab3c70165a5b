//! `ops::adamw`. The ceiling is memory: gradients are read, weights and both moments read and written.

use super::operator::normal;
use criterion::{Criterion, Throughput};
use taper::device::Device;
use taper::ops::adamw::cost::{STATE_BYTES, bytes_per_parameter};
use taper::ops::adamw::{AdamW, adamw};
use taper::tape::{Gradients, Layout, Params};
use taper::tensor::{DType, Tensor};

/// One update of 16 million parameters: more than any cache holds.
pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("adamw");
    let len = 1 << 24;
    let mut layout = Layout::default();
    let id = layout.push("p", &[len / 1024, 1024]);
    let mut params = Params::zeros(layout, Device::Cpu).expect("host memory");
    let mut grads = Gradients::zeros_like(&params).expect("host memory");
    grads.of_mut(id).copy_from_slice(normal(&[len]).f32());
    let zeros = || Tensor::zeros(Device::Cpu, DType::F32, &[len]).expect("host memory");
    let (mut m, mut v) = (zeros(), zeros());
    let with = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, t: 10, grad_scale: 0.5 };
    group.throughput(Throughput::Bytes((bytes_per_parameter(STATE_BYTES, DType::F32) * len) as u64));
    group.bench_function("update", |bencher| {
        bencher.iter(|| adamw(&mut params, &grads, &mut m, &mut v, &with));
    });
    group.finish();
}
