//! How an operator is measured: on an inference tape, then on a training tape with its backward.

use criterion::{Criterion, Throughput};
use taper::device::Device;
use taper::ops::cost::Cost;
use taper::random::{Purpose, fill_normal};
use taper::tape::{Gradients, Layout, ParamId, Params, Tape, Var};
use taper::tensor::Tensor;

/// Sequences.
pub const B: usize = 4;
/// Tokens of a sequence.
pub const T: usize = 256;
/// Channels.
pub const C: usize = 768;
/// Feed-forward width.
pub const M: usize = 3072;

/// A tensor of normal numbers.
pub fn normal(shape: &[usize]) -> Tensor {
    let mut values = vec![0.0; shape.iter().product()];
    fill_normal(1, Purpose::Test, "benchmark", 0, &mut values);
    Tensor::from_f32(&values, shape).expect("a host tensor")
}

/// Measures `op` on activations and parameters of these shapes. Rates are those of the elements of activations that
/// `cost` counts.
pub fn bench(
    c: &mut Criterion,
    name: &str,
    inputs: &[&[usize]],
    params: &[&[usize]],
    cost: Cost,
    op: impl Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> taper::Result<Var>,
) {
    let mut layout = Layout::default();
    let ids: Vec<ParamId> = params.iter().map(|shape| layout.push("p", shape)).collect();
    let mut values = Params::zeros(layout, Device::Cpu).expect("host memory");
    for (id, shape) in ids.iter().zip(params) {
        values.set(*id, normal(shape).f32()).expect("values of this shape");
    }
    let mut grads = Gradients::zeros_like(&values).expect("host memory");
    let mut unused = Gradients::zeros_like(&values).expect("host memory");
    let inputs: Vec<Tensor> = inputs.iter().map(|shape| normal(shape)).collect();
    let mut group = c.benchmark_group(name);

    group.throughput(Throughput::Bytes(4 * cost.forward.activations as u64));
    let constants: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
    let mut out = None;
    group.bench_function("forward", |bencher| {
        bencher.iter(|| out = Some(op(&mut Tape::inference(&values), &constants, &ids).expect("the operator")));
    });
    let Some(out) = out else { return };

    group.throughput(Throughput::Bytes(4 * cost.activations() as u64));
    group.bench_function("forward and backward", |bencher| {
        bencher.iter_batched(
            || out.value().clone().into_sole().expect("host memory"),
            |dout| {
                let mut tape = Tape::training(&values, &mut unused);
                let vars: Vec<Var> = inputs.iter().map(|input| tape.input(input.clone())).collect();
                let out = op(&mut tape, &vars, &ids).expect("the operator");
                let references: Vec<&Var> = vars.iter().collect();
                tape.backward_from(&out, dout, &mut grads, &references, None).expect("the operator's backward")
            },
            criterion::BatchSize::LargeInput,
        );
    });
}
