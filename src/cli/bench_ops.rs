//! `taper bench ops`: operators at the sizes of GPT-2 small, beside what the machine can do at most.
//!
//! Rates count what has to be done at least: the bytes of every tensor read or written once, or the floating-point
//! operations where those are the limit. `share` is the rate over the ceiling measured in the same process. The full set,
//! with statistics, is `cargo bench --bench ops`.

use std::time::Duration;

use serde_json::json;

use half::bf16;

use super::bench::Ops;
use super::bench_table::{FlopUnit, Limit, Row, Table};
use super::doctor::{best_rate, copy_gbs, gemm_gflops};
use super::print_line;
use super::train::slow_on_this_cpu;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::adamw::{AdamW, adamw};
use crate::ops::attention::{Heads, attention};
use crate::ops::classifier::{Scale, classifier};
use crate::ops::{embedding, gelu, gradnorm, layernorm, linear, residual};
use crate::random::{Purpose, fill_normal};
use crate::tape::{Gradients, Layout, ParamId, Params, Tape, Var};
use crate::tensor::{DType, Tensor};
use crate::train::config::{Precision, PrecisionConfig};

/// Sequences, tokens, channels, feed-forward width, vocabulary.
const B: usize = 2;
const T: usize = 512;
const C: usize = 768;
const M: usize = 3072;
const V: usize = 8192;
const N: usize = B * T;

/// How long each measurement takes.
const PATIENCE: Duration = Duration::from_millis(200);

pub(super) fn run(args: &Ops) -> Result<()> {
    if let Some(gpu) = Device::parse(&args.device)?.gpu()? {
        return match args.precision {
            None | Some(Precision::Bf16) => super::bench_gpu::run(gpu, args.json),
            Some(other) => Err(Error::usage(format!(
                "on a GPU operators are measured in bf16, not in {}; leave --precision out, or take --device cpu",
                other.name()
            ))),
        };
    }
    let precision = PrecisionConfig { compute: args.precision, ..PrecisionConfig::default() }.resolve(false)?;
    if let Some(note) = slow_on_this_cpu(precision) {
        eprintln!("NOTE: {note}");
    }
    let (dtype, name) = (precision.dtype(), precision.name());
    let rows = measure(dtype)?;
    let gflops = if dtype == DType::BF16 { gemm_gflops::<bf16>() } else { gemm_gflops::<f32>() };
    let gbs = copy_gbs();
    let table = Table { rows, flops: gflops * 1e9, bytes: gbs * 1e9, unit: FlopUnit::Giga };
    if args.json {
        return table.print_json("machine", &json!({"threads": rayon::current_num_threads(), "precision": name}));
    }
    print_line(&format!("B={B} T={T} C={C} M={M} V={V}, {name}; ceilings: {gflops:.0} GFLOP/s, {gbs:.1} GB/s (copy)"))?;
    table.print()
}

fn measure(dtype: DType) -> Result<Vec<Row>> {
    let heads = Heads { n_head: 12, n_kv_head: 12, head_dim: 64 };
    let ids: Vec<u32> = (0..N).map(|i| (i * 7919 % V) as u32).collect();
    let tokens = Tensor::from_u32(&ids, &[B, T])?;
    let mut rows = Vec::new();
    // Bytes that move at least: forward, then forward and backward. Gradients of tables are float32 in any case.
    let size = dtype.size() as f64;
    let bytes = |forward: usize, both: usize| (Limit::Bytes, size * forward as f64, size * both as f64);
    let table = (Limit::Bytes, size * (2 * N * C) as f64, size * (3 * N * C) as f64 + (8 * N * C) as f64);
    let flops = |forward: usize, both: usize| (Limit::Flops, forward as f64, both as f64);
    let x: &[usize] = &[B, T, C];
    let pairs = B * 12 * (T * (T + 1) / 2) * 64;
    op(&mut rows, dtype, "embedding", &[], &[&[V, C]], table, &|tape, _, p| {
        embedding::embedding(tape, &tokens, p[0], None, 0, None)
    })?;
    op(&mut rows, dtype, "layernorm", &[x], &[&[C], &[C]], bytes(2 * N * C, 5 * N * C), &|tape, v, p| {
        layernorm::layernorm(tape, &v[0], p[0], Some(p[1]), 1e-5)
    })?;
    op(&mut rows, dtype, "linear", &[x], &[&[M, C], &[M]], flops(2 * N * C * M, 6 * N * C * M), &|tape, v, p| {
        linear::linear(tape, &v[0], p[0], Some(p[1]))
    })?;
    op(&mut rows, dtype, "gelu", &[&[B, T, M]], &[], bytes(2 * N * M, 5 * N * M), &|tape, v, _| {
        gelu::gelu(tape, &v[0], gelu::Kind::Tanh)
    })?;
    op(&mut rows, dtype, "residual", &[x, x], &[], bytes(3 * N * C, 3 * N * C), &|tape, v, _| {
        residual::residual(tape, &v[0], v[1].clone())
    })?;
    op(&mut rows, dtype, "attention", &[&[B, T, 3 * C]], &[], flops(4 * pairs, 14 * pairs), &|tape, v, _| {
        attention(tape, &v[0], heads, None, None)
    })?;
    op(&mut rows, dtype, "classifier", &[x], &[&[V, C]], flops(2 * N * C * V, 6 * N * C * V), &|tape, v, p| {
        Ok(classifier(tape, &v[0], p[0], &ids, Scale { by: 1.0, loss_scale: None })?.root)
    })?;
    optimizer(&mut rows, dtype)?;
    Ok(rows)
}

type Operator<'f> = dyn Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> Result<Var> + 'f;

/// A row of something that does `amount` at so much per nanosecond.
fn row(op: &'static str, pass: &'static str, limit: Limit, amount: f64, rate: f64) -> Row {
    Row { op, pass, limit, amount, seconds: amount / rate / 1e9 }
}

/// Times an operator without a tape, and with one that runs backwards.
fn op(
    rows: &mut Vec<Row>,
    dtype: DType,
    name: &'static str,
    inputs: &[&[usize]],
    params: &[&[usize]],
    (limit, forward, both): (Limit, f64, f64),
    run: &Operator<'_>,
) -> Result<()> {
    let (weights, ids) = parameters(params, dtype)?;
    let mut grads = Gradients::zeros_like(&weights)?;
    let mut unused = Gradients::zeros_like(&weights)?;
    let inputs: Vec<Tensor> = inputs.iter().map(|shape| normal(shape)?.to_dtype(dtype)).collect::<Result<_>>()?;
    let constants: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
    let out = run(&mut Tape::inference(&weights), &constants, &ids)?;
    // Losses are float32 in any case.
    let dout = normal(out.value().shape())?.to_dtype(out.value().dtype())?;
    drop(out);
    let mut failed: Option<Error> = None;
    let rate = best_rate(forward, PATIENCE, || {
        failed = run(&mut Tape::inference(&weights), &constants, &ids).err();
    });
    rows.push(row(name, "forward", limit, forward, rate));
    let rate = best_rate(both, PATIENCE, || {
        let mut once = || {
            let mut tape = Tape::training(&weights, &mut unused);
            let vars: Vec<Var> = inputs.iter().map(|input| tape.input(input.clone())).collect();
            let out = run(&mut tape, &vars, &ids)?;
            let references: Vec<&Var> = vars.iter().collect();
            tape.backward_from(&out, dout.clone(), &mut grads, &references, None).map(|_| ())
        };
        failed = once().err();
    });
    rows.push(row(name, "forward, backward", limit, both, rate));
    failed.map_or(Ok(()), Err)
}

/// The passes over the whole arena: gradient norm and update.
fn optimizer(rows: &mut Vec<Row>, dtype: DType) -> Result<()> {
    let (mut weights, _) = parameters(&[&[V, C], &[4 * C, C], &[C]], dtype)?;
    let len = weights.layout().len();
    let mut grads = Gradients::zeros_like(&weights)?;
    fill_normal(1, Purpose::Test, "gradients", 0, grads.flat_mut().f32_mut());
    let moment = || Tensor::zeros(Device::Cpu, DType::F32, &[len]);
    let (mut m, mut v) = (moment()?, moment()?);
    let amount = 4.0 * len as f64;
    let rate = best_rate(amount, PATIENCE, || {
        std::hint::black_box(gradnorm::gradnorm(&grads, 1.0));
    });
    rows.push(row("gradnorm", "one pass", Limit::Bytes, amount, rate));
    // Weights and moments are read and written, gradients read; a narrow copy of the weights is written.
    let amount = if dtype == DType::F32 { 28.0 } else { 30.0 } * len as f64;
    let with = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, t: 10, grad_scale: 1.0 };
    let rate = best_rate(amount, PATIENCE, || adamw(&mut weights, &grads, &mut m, &mut v, &with));
    rows.push(row("adamw", "one pass", Limit::Bytes, amount, rate));
    Ok(())
}

fn parameters(shapes: &[&[usize]], dtype: DType) -> Result<(Params, Vec<ParamId>)> {
    let mut layout = Layout::default();
    let ids: Vec<ParamId> = shapes.iter().enumerate().map(|(i, shape)| layout.push(format!("p{i}"), shape)).collect();
    let mut params = Params::zeros(layout, Device::Cpu)?;
    for (id, shape) in ids.iter().zip(shapes) {
        params.set(*id, normal(shape)?.f32())?;
    }
    Ok((params.with_compute(dtype)?, ids))
}

/// Normal numbers of the size of weights.
fn normal(shape: &[usize]) -> Result<Tensor> {
    let mut values = vec![0.0; shape.iter().product()];
    fill_normal(1, Purpose::Test, "benchmark", 0, &mut values);
    values.iter_mut().for_each(|value| *value *= 0.1);
    Tensor::from_f32(&values, shape)
}
