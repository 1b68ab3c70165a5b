//! `taper doctor --numerics`: the engine against the same mathematics by the book, on this machine.
//!
//! Every operator, forward and backward, and a whole step of two tiny models are computed three times: by the engine in
//! float32, and by candle in float64 (taken as the truth) and in float32 (a plain implementation). The engine may be at
//! most twice as far from the truth as the plain one, plus four units in the last place of the largest value.

use candle_core::{DType, Device as CandleDevice, Result as CandleResult, Tensor as Candle, Var as CandleVar};

use crate::arch::config::{Mlp, ModelConfig, Norm, Position};
use crate::arch::layout;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::model::gpt::Pass;
use crate::open::reference;
use crate::ops::attention::Heads;
use crate::ops::{attention, embedding, gelu, layernorm, linear, relu2, residual, rmsnorm, rope, swiglu};
use crate::random::{Purpose, fill_normal, uniform};
use crate::reference::{Precision, ops as book};
use crate::tape::{Gradients, Layout, ParamId, Params, Tape, Var};
use crate::tensor::Tensor;

/// One comparison.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Check {
    /// The operator or model.
    pub what: String,
    /// What of it: output, a gradient, logits, loss.
    pub part: &'static str,
    /// The largest distance of the engine from float64.
    pub error: f64,
    /// The largest distance of candle in float32 from float64.
    pub plain_error: f64,
    /// What the engine's may be.
    pub allowed: f64,
    /// Whether it is within that.
    pub ok: bool,
}

impl Check {
    fn new(what: &str, part: &'static str, ours: &[f32], plain: &[f64], truth: &[f64]) -> Check {
        let ours: Vec<f64> = ours.iter().map(|&value| f64::from(value)).collect();
        let largest = truth.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let (error, plain_error) = (distance(&ours, truth), distance(plain, truth));
        let allowed = 2.0 * plain_error + 4.0 * f64::from(f32::EPSILON) * largest;
        Check { what: what.to_string(), part, error, plain_error, allowed, ok: error <= allowed }
    }
}

/// The largest distance; infinite where the lengths differ or a number is not one.
fn distance(values: &[f64], truth: &[f64]) -> f64 {
    let far = |(value, truth): (&f64, &f64)| {
        let far = (value - truth).abs();
        if far.is_nan() { f64::INFINITY } else { far }
    };
    let same = values.len() == truth.len();
    values.iter().zip(truth).map(far).fold(if same { 0.0 } else { f64::INFINITY }, f64::max)
}

/// Makes all comparisons: operators, then models.
///
/// # Errors
/// If one of the engines cannot compute at all.
pub fn compare() -> Result<Vec<Check>> {
    let mut checks = operators()?;
    for (name, config) in tiny_models() {
        checks.extend(model(name, config)?);
    }
    Ok(checks)
}

type Ours<'f> = dyn Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> Result<Var> + 'f;
type Book<'f> = dyn Fn(&[Candle]) -> CandleResult<Candle> + 'f;

/// Awkward sizes: no power of two, more than one block of each kernel.
const B: usize = 2;
const T: usize = 67;
const C: usize = 90;

fn operators() -> Result<Vec<Check>> {
    let heads = Heads { n_head: 6, n_kv_head: 2, head_dim: 10 };
    let table = rope::RopeTable::new(T, heads.head_dim, 1e4)?;
    let ids: Vec<u32> = (0..B * T).map(|i| (i * i % 31) as u32).collect();
    let (tokens, book_ids) = (Tensor::from_u32(&ids, &[B, T])?, ids);
    let (x, packed): (&[usize], &[usize]) = (&[B, T, C], &[B, T, 100]);
    let split = move |qkv: &Candle| book::split_qkv(qkv, heads.n_head, heads.n_kv_head, heads.head_dim);
    let mut checks = Vec::new();
    // (name, activations, parameters, engine, book); the book gets activations, then parameters.
    let mut add = |name: &str, inputs: &[&[usize]], params: &[&[usize]], ours: &Ours<'_>, by_book: &Book<'_>| {
        operator(name, inputs, params, ours, by_book).map(|found| checks.extend(found))
    };
    add(
        "embedding",
        &[],
        &[&[31, C], &[T + 3, C]],
        &|tape, _, p| embedding::embedding(tape, &tokens, p[0], Some(p[1]), 3, None),
        &|t| {
            let ids = Candle::from_slice(&book_ids, (B, T), &CandleDevice::Cpu)?;
            book::embedding(&t[0], &ids)?.broadcast_add(&t[1].narrow(0, 3, T)?)
        },
    )?;
    add("linear", &[x], &[&[70, C], &[70]], &|tape, v, p| linear::linear(tape, &v[0], p[0], Some(p[1])), &|t| {
        book::linear(&t[0], &t[1], Some(&t[2]))
    })?;
    add(
        "layernorm",
        &[x],
        &[&[C], &[C]],
        &|tape, v, p| layernorm::layernorm(tape, &v[0], p[0], Some(p[1]), 1e-5),
        &|t| book::layernorm(&t[0], &t[1], Some(&t[2]), f64::from(1e-5f32)),
    )?;
    add("rmsnorm", &[x], &[&[C]], &|tape, v, p| rmsnorm::rmsnorm(tape, &v[0], p[0], 1e-5), &|t| {
        book::rmsnorm(&t[0], &t[1], f64::from(1e-5f32))
    })?;
    add("gelu (tanh)", &[x], &[], &|tape, v, _| gelu::gelu(tape, &v[0], gelu::Kind::Tanh), &|t| book::gelu(&t[0]))?;
    add("gelu (erf)", &[x], &[], &|tape, v, _| gelu::gelu(tape, &v[0], gelu::Kind::Erf), &|t| book::gelu_erf(&t[0]))?;
    add("relu2", &[x], &[], &|tape, v, _| relu2::relu2(tape, &v[0]), &|t| book::relu2(&t[0]))?;
    add("swiglu", &[x], &[], &|tape, v, _| swiglu::swiglu(tape, &v[0]), &|t| book::swiglu(&t[0]))?;
    add("residual", &[x, x], &[], &|tape, v, _| residual::residual(tape, &v[0], v[1].clone()), &|t| &t[0] + &t[1])?;
    add("rope", &[packed], &[], &|tape, v, _| rope::rope(tape, v[0].clone(), heads, &table, 0, None), &|t| {
        let (q, k, v) = split(&t[0])?;
        let turned = [book::rope(&q, 1e4, 0)?, book::rope(&k, 1e4, 0)?, v];
        let parts: Vec<Candle> = turned.iter().map(book::merge_heads).collect::<CandleResult<_>>()?;
        Candle::cat(&parts, 2)
    })?;
    add("attention", &[packed], &[], &|tape, v, _| attention::attention(tape, &v[0], heads, None, None), &|t| {
        let (q, k, v) = split(&t[0])?;
        book::merge_heads(&book::causal_attention(&q, &k, &v)?)
    })?;
    Ok(checks)
}

/// Compares the output of an operator and its gradients, those of all inputs together.
fn operator(
    name: &str,
    inputs: &[&[usize]],
    params: &[&[usize]],
    ours: &Ours<'_>,
    by_book: &Book<'_>,
) -> Result<Vec<Check>> {
    let values: Vec<(Vec<f32>, &[usize])> = inputs
        .iter()
        .chain(params)
        .enumerate()
        .map(|(i, shape)| (normal(&format!("{name} {i}"), shape.iter().product()), *shape))
        .collect();
    let mut layout = Layout::default();
    let ids: Vec<ParamId> = params.iter().enumerate().map(|(i, shape)| layout.push(format!("p{i}"), shape)).collect();
    let mut weights = Params::zeros(layout, Device::Cpu)?;
    for (id, (values, _)) in ids.iter().zip(&values[inputs.len()..]) {
        weights.set(*id, values)?;
    }
    let (mut grads, mut unused) = (Gradients::zeros_like(&weights)?, Gradients::zeros_like(&weights)?);
    let mut tape = Tape::training(&weights, &mut unused);
    let vars = values[..inputs.len()]
        .iter()
        .map(|(values, shape)| Ok(tape.input(Tensor::from_f32(values, shape)?)))
        .collect::<Result<Vec<Var>>>()?;
    let out = ours(&mut tape, &vars, &ids)?;
    let out_values = out.value().f32().to_vec();
    let dout = normal(&format!("{name} dout"), out_values.len());
    let dout_tensor = Tensor::from_f32(&dout, out.value().shape())?;
    let references: Vec<&Var> = vars.iter().collect();
    let found = tape.backward_from(&out, dout_tensor, &mut grads, &references, None)?;
    let mut our_grads: Vec<f32> = Vec::new();
    for (grad, (values, _)) in found.iter().zip(&values) {
        match grad {
            Some(grad) => our_grads.extend(grad.f32()),
            None => our_grads.extend(std::iter::repeat_n(0.0, values.len())),
        }
    }
    ids.iter().for_each(|&id| our_grads.extend(grads.of(id)));

    let by_book = |dtype| by_book_with_gradients(&values, &dout, dtype, by_book).map_err(explain);
    let ((truth, truth_grads), (plain, plain_grads)) = (by_book(DType::F64)?, by_book(DType::F32)?);
    Ok(vec![
        Check::new(name, "output", &out_values, &plain, &truth),
        Check::new(name, "gradients", &our_grads, &plain_grads, &truth_grads),
    ])
}

/// The output, and the gradients of all inputs one after the other.
fn by_book_with_gradients(
    inputs: &[(Vec<f32>, &[usize])],
    dout: &[f32],
    dtype: DType,
    f: &Book<'_>,
) -> CandleResult<(Vec<f64>, Vec<f64>)> {
    let vars = inputs
        .iter()
        .map(|(values, shape)| {
            CandleVar::from_tensor(&Candle::from_slice(values, *shape, &CandleDevice::Cpu)?.to_dtype(dtype)?)
        })
        .collect::<CandleResult<Vec<_>>>()?;
    let tensors: Vec<Candle> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let out = f(&tensors)?;
    let dout = Candle::from_slice(dout, out.dims(), &CandleDevice::Cpu)?.to_dtype(dtype)?;
    let store = out.mul(&dout)?.sum_all()?.backward()?;
    let flat = |tensor: &Candle| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let mut grads = Vec::new();
    for var in &vars {
        match store.get(var) {
            Some(grad) => grads.extend(flat(grad)?),
            None => candle_core::bail!("an input gets no gradient"),
        }
    }
    Ok((flat(&out)?, grads))
}

/// A GPT-2 and a Llama with grouped queries, small enough for float64 in a moment.
fn tiny_models() -> [(&'static str, ModelConfig); 2] {
    let gpt2 = ModelConfig::gpt2(2, 6, 48, 40, 211);
    let llama = ModelConfig {
        n_kv_head: 2,
        mlp_dim: 128,
        norm: Norm::Rmsnorm,
        position: Position::Rope,
        mlp: Mlp::Swiglu,
        qkv_bias: false,
        bias: false,
        tie_embeddings: false,
        ..gpt2.clone()
    };
    [("a tiny GPT-2", gpt2), ("a tiny Llama", llama)]
}

/// Compares the logits, the loss and all gradients of a model.
fn model(name: &str, config: ModelConfig) -> Result<Vec<Check>> {
    let (b, t, v) = (3, config.context_length, config.vocab_size);
    let ids: Vec<u32> = (0..b * (t + 1)).map(|i| (uniform(1, Purpose::Test, 0, i as u64) * v as f64) as u32).collect();
    let (inputs, targets): (Vec<u32>, Vec<u32>) =
        ids.chunks(t + 1).flat_map(|row| row[..t].iter().copied().zip(row[1..].iter().copied())).unzip();
    let model = Gpt::new(config)?;
    let params = model.initialise(1)?;
    let tokens = Tensor::from_u32(&inputs, &[b, t])?;
    let logits = model.logits(&params, &tokens)?;
    let mut grads = Gradients::zeros_like(&params)?;
    let mut tape = Tape::training(&params, &mut grads);
    let loss = model.loss(&mut tape, &tokens, &targets, 1.0 / (b * t) as f32, &Pass::default())?;
    let (mean, root) = (loss.sum()? / (b * t) as f64, loss.root);
    tape.backward(&root, Tensor::from_f32(&[1.0], &[1])?)?;
    let names: Vec<String> = layout::parameter_shapes(model.config()).into_iter().map(|(name, _)| name).collect();
    let mut our_grads = Vec::new();
    for name in &names {
        let id = params.layout().find(name);
        our_grads.extend(grads.of(id.ok_or_else(|| Error::Training(format!("no parameter {name}")))?));
    }
    let by_book = |precision| -> Result<(Vec<f64>, f64, Vec<f64>)> {
        let oracle = reference(model.config(), &params, precision)?;
        let (loss, by_name) = oracle.loss_and_grads(&inputs, &targets, b, t)?;
        let grads = names.iter().flat_map(|name| by_name.get(name).cloned().unwrap_or_default()).collect();
        Ok((oracle.logits(&inputs, b, t)?, loss, grads))
    };
    let (truth, plain) = (by_book(Precision::F64)?, by_book(Precision::F32)?);
    Ok(vec![
        Check::new(name, "logits", logits.f32(), &plain.0, &truth.0),
        Check::new(name, "loss", &[mean as f32], &[plain.1], &[truth.1]),
        Check::new(name, "gradients", &our_grads, &plain.2, &truth.2),
    ])
}

fn normal(name: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    fill_normal(1, Purpose::Test, name, 0, &mut values);
    values
}

fn explain(error: candle_core::Error) -> Error {
    Error::Training(format!("the reference engine failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_wrong_is_found() {
        let operator = |ours: &Ours<'_>| {
            operator("gelu", &[&[3, 5]], &[], ours, &|t| book::gelu(&t[0])).unwrap().iter().all(|check| check.ok)
        };
        assert!(operator(&|tape, v, _| gelu::gelu(tape, &v[0], gelu::Kind::Tanh)));
        // The exact GELU is about 1e-4 away from its tanh form: too far.
        assert!(!operator(&|tape, v, _| gelu::gelu(tape, &v[0], gelu::Kind::Erf)));
        assert_eq!(distance(&[f64::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(distance(&[], &[1.0]), f64::INFINITY);
    }
}
