//! `taper bench ops` on a GPU: every operator of a training step at the sizes of GPT-2 small, next to the ceilings that are
//! measured in the same process: a large bf16 matrix product, and copying memory.

use std::time::Instant;

use serde_json::json;

use crate::cli::bench::table::{Limit, Row, Table};
use crate::cli::ui::print_line;
use crate::device::launch::{GpuMatrix, Product};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::ops::attention::Heads;
use crate::ops::attention::cost::Pairs;
use crate::ops::classifier::Scale;
use crate::ops::cost::{Cost, Counting};
use crate::ops::{attention, classifier, embedding, gelu, layernorm, linear, residual, swiglu};
use crate::random::{Purpose, fill_normal};
use crate::tape::{Gradients, Layout, ParamId, Params, Tape, Var};
use crate::tensor::Tensor;

/// Sequences, tokens, channels, feed-forward width, vocabulary (padded as one should on a GPU).
const B: usize = 16;
const T: usize = 1024;
const C: usize = 768;
const M: usize = 3072;
const V: usize = 50_304;
const N: usize = B * T;
/// Calls between two looks at the clock, and how often that is done: the median counts.
const CALLS: usize = 10;
const ROUNDS: usize = 7;

pub(crate) fn run(gpu: &'static Gpu, as_json: bool) -> Result<()> {
    let (flops, bytes) = (product_flops(gpu)?, copy_bytes(gpu)?);
    let table = Table { rows: measure(gpu)?, flops, bytes };
    let facts = gpu.driver().facts();
    if as_json {
        return table.print_json(&json!(facts));
    }
    print_line(&format!(
        "{}: B={B} T={T} C={C} M={M} V={V}, bf16; ceilings: {:.0} TFLOP/s, {:.0} GB/s (copy)",
        facts.name,
        flops / 1e12,
        bytes / 1e9
    ))?;
    table.print()
}

/// Seconds of one call: the median of some rounds of several calls that are waited for together.
fn time(gpu: &Gpu, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        gpu.driver().synchronize()?;
        let began = Instant::now();
        for _ in 0..CALLS {
            call()?;
        }
        gpu.driver().synchronize()?;
        times.push(began.elapsed().as_secs_f64() / CALLS as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2])
}

/// FLOP/s of a large bf16 product.
fn product_flops(gpu: &'static Gpu) -> Result<f64> {
    const SIDE: usize = 8192;
    let square = || normal(gpu, &[SIDE, SIDE]);
    let (a, b, mut c) = (square()?, square()?, square()?);
    let out = c.address_mut();
    let matrix = |address| GpuMatrix::new(address, DType::BF16, SIDE, SIDE);
    let product = Product::set(matrix(out), matrix(a.address()), matrix(b.address()).t());
    Ok(2.0 * (SIDE as f64).powi(3) / time(gpu, || gpu.driver().multiply(&product))?)
}

/// Bytes per second of copying 1 GiB, reading and writing counted.
fn copy_bytes(gpu: &'static Gpu) -> Result<f64> {
    const LEN: usize = 1 << 28;
    let from = Tensor::zeros(gpu.device(), DType::F32, &[LEN])?;
    let mut to = Tensor::empty(gpu.device(), DType::F32, &[LEN])?;
    Ok(8.0 * LEN as f64 / time(gpu, || to.copy_from(&from))?)
}

type Operator<'o> = dyn Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> Result<Var> + 'o;

fn measure(gpu: &'static Gpu) -> Result<Vec<Row>> {
    let ids: Vec<u32> = (0..N).map(|i| (i * 7919 % V) as u32).collect();
    let tokens = Tensor::from_u32(&ids, &[B, T])?;
    let mut rows = Vec::new();
    // Elements of bf16 that move at least, and FLOPs: forward, then forward and backward.
    let bytes = |cost: Cost| (Limit::Bytes, 2.0 * cost.forward.activations as f64, 2.0 * cost.activations() as f64);
    let flops = |cost: Cost| (Limit::Flops, cost.forward.flops as f64, cost.flops() as f64);
    let x: &[usize] = &[B, T, C];
    // Positions stay in the cache.
    let cost = embedding::cost::cost(B, T, C, V, false, Counting::EachUse);
    op(gpu, &mut rows, "embedding", &[], &[&[V, C], &[T, C]], bytes(cost), &|tape, _, p| {
        embedding::embedding(tape, &tokens, p[0], Some(p[1]), 0, None)
    })?;
    let cost = layernorm::cost::cost(N, C);
    op(gpu, &mut rows, "layernorm", &[x], &[&[C], &[C]], bytes(cost), &|tape, v, p| {
        layernorm::layernorm(tape, &v[0], p[0], Some(p[1]), 1e-5)
    })?;
    op(gpu, &mut rows, "gelu", &[&[B, T, M]], &[], bytes(gelu::cost::cost(N * M)), &|tape, v, _| {
        gelu::gelu(tape, &v[0], gelu::Kind::Tanh)
    })?;
    op(gpu, &mut rows, "swiglu", &[&[B, T, 2 * M]], &[], bytes(swiglu::cost::cost(N * M)), &|tape, v, _| {
        swiglu::swiglu(tape, &v[0])
    })?;
    op(gpu, &mut rows, "residual", &[x, x], &[], bytes(residual::cost::cost(N * C)), &|tape, v, _| {
        residual::residual(tape, &v[0], v[1].clone())
    })?;
    let cost = linear::cost::cost(N, C, M, Counting::Least);
    op(gpu, &mut rows, "linear", &[x], &[&[M, C], &[M]], flops(cost), &|tape, v, p| {
        linear::linear(tape, &v[0], p[0], Some(p[1]))
    })?;
    for (name, heads) in [("attention64", 12), ("attention128", 6)] {
        let heads = Heads { n_head: heads, n_kv_head: heads, head_dim: C / heads };
        let cost = attention::cost::cost(B, T, heads, Pairs::Causal);
        op(gpu, &mut rows, name, &[&[B, T, 3 * C]], &[], flops(cost), &|tape, v, _| {
            attention::attention(tape, &v[0], heads, None, None)
        })?;
    }
    let cost = classifier::cost::cost(N, C, V);
    op(gpu, &mut rows, "classifier", &[x], &[&[V, C]], flops(cost), &|tape, v, p| {
        let scale = Scale { by: 1.0 / N as f32, loss_scale: None };
        Ok(classifier::classifier(tape, &v[0], p[0], &ids, scale)?.root)
    })?;
    Ok(rows)
}

/// Times an operator forward alone, then forward and backward.
fn op(
    gpu: &'static Gpu,
    rows: &mut Vec<Row>,
    name: &'static str,
    inputs: &[&[usize]],
    shapes: &[&[usize]],
    (limit, forward, both): (Limit, f64, f64),
    operator: &Operator<'_>,
) -> Result<()> {
    let mut layout = Layout::default();
    let ids: Vec<ParamId> = shapes.iter().map(|shape| layout.push("p", shape)).collect();
    let mut host = Params::zeros(layout, crate::device::Device::Cpu)?;
    fill_normal(1, Purpose::Test, "weights", 0, host.flat_mut().f32_mut());
    let params = host.to_device(gpu.device(), DType::BF16)?;
    let values: Vec<Tensor> = inputs.iter().map(|shape| normal(gpu, shape)).collect::<Result<_>>()?;
    let seconds = time(gpu, || {
        let mut tape = Tape::inference(&params);
        let vars: Vec<Var> = values.iter().cloned().map(Var::constant).collect();
        operator(&mut tape, &vars, &ids).map(|_| ())
    })?;
    rows.push(Row { op: name, pass: "forward", limit, seconds, amount: forward });
    let (mut grads, mut unused) = (Gradients::zeros_like(&params)?, Gradients::zeros_like(&params)?);
    let mut dout = None;
    let seconds = time(gpu, || {
        let mut tape = Tape::training(&params, &mut unused);
        let vars: Vec<Var> = values.iter().cloned().map(|value| tape.input(value)).collect();
        let out = operator(&mut tape, &vars, &ids)?;
        let gradient = match &dout {
            Some(gradient) => Tensor::clone(gradient),
            None => dout.insert(Tensor::zeros(gpu.device(), out.value().dtype(), out.value().shape())?).clone(),
        };
        tape.backward_from(&out, gradient, &mut grads, &[], None).map(|_| ())
    })?;
    rows.push(Row { op: name, pass: "forward + backward", limit, seconds, amount: both });
    Ok(())
}

/// Normal numbers in bf16 on the GPU.
fn normal(gpu: &'static Gpu, shape: &[usize]) -> Result<Tensor> {
    let mut values = vec![0.0; shape.iter().product()];
    fill_normal(1, Purpose::Test, "benchmark", 0, &mut values);
    Tensor::from_f32(&values, shape)?.to_device(gpu.device())?.to_dtype(DType::BF16)
}
