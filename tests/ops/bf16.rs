//! Every operator in bf16 against itself in f32 on the same (rounded) inputs.
//!
//! What is loaded is exact and what is computed is f32, so an operator that stores each result once gives exactly the
//! rounded results of its f32 self, and exactly its gradients of parameters, which are f32 in both. Where a product or
//! an intermediate tensor stands between, as many roundings more are allowed.

use super::oracle::{Input, activation, normal, param};
use super::run::{run_in, scaled};
use taper::device::Device;
use taper::ops::adamw::{AdamW, adamw};
use taper::ops::attention::{AttentionDropout, Heads, attention, forward, forward_cached};
use taper::ops::classifier::{IGNORE, Scale, classifier};
use taper::ops::documents::Documents;
use taper::ops::dropout::dropout;
use taper::ops::embedding::embedding;
use taper::ops::gelu::{Kind, gelu};
use taper::ops::layernorm::{add_layernorm, layernorm};
use taper::ops::linear::{forward_f32, linear};
use taper::ops::low_rank::low_rank;
use taper::ops::relu2::relu2;
use taper::ops::residual::residual;
use taper::ops::rmsnorm::{add_rmsnorm, rmsnorm};
use taper::ops::rope::{RopeTable, rope};
use taper::ops::swiglu::swiglu;
use taper::random::Mask;
use taper::tape::{Gradients, Layout, ParamId, Params, Tape, Var};
use taper::tensor::{DType, Tensor};

type Operator<'o> = &'o dyn Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> taper::Result<Var>;

/// The largest error of rounding to bf16, relative to the number.
const HALF: f32 = 1.0 / 256.0;

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| half::bf16::from_f32(value).to_f32()).collect()
}

/// The results of an operator in f32 and in bf16, from inputs that both can hold.
fn both(inputs: Vec<Input>, operator: Operator<'_>) -> [Vec<Vec<f32>>; 2] {
    let inputs: Vec<Input> =
        inputs.into_iter().map(|input| Input { values: rounded(&input.values), ..input }).collect();
    let dout = |len: usize| rounded(&normal("dout", len));
    [DType::F32, DType::BF16].map(|dtype| run_in(dtype, dout, &inputs, operator).unwrap())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// An operator that rounds each result once.
fn rounds_once(what: &str, inputs: Vec<Input>, operator: Operator<'_>) {
    let is_param: Vec<bool> = inputs.iter().map(|input| input.is_param).collect();
    let [wide, narrow] = both(inputs, operator);
    for (place, (wide, narrow)) in wide.iter().zip(&narrow).enumerate() {
        let stays = place > 0 && is_param[place - 1];
        let expected = if stays { wide.clone() } else { rounded(wide) };
        assert!(bits(&expected) == bits(narrow), "{what}: result {place}");
    }
}

/// An operator with products or intermediate tensors: an element may be off by half a last place, and by `factor` of
/// them of the typical element; on average, by half a last place of the typical element.
fn is_near(what: &str, inputs: Vec<Input>, factor: f32, operator: Operator<'_>) {
    let [wide, narrow] = both(inputs, operator);
    for (place, (wide, narrow)) in wide.iter().zip(&narrow).enumerate() {
        close(&format!("{what}, result {place}"), narrow, wide, factor);
    }
}

fn close(what: &str, found: &[f32], expected: &[f32], factor: f32) {
    assert_eq!(found.len(), expected.len());
    let square: f64 = expected.iter().map(|&value| f64::from(value).powi(2)).sum();
    let typical = (square / expected.len() as f64).sqrt() as f32;
    let off: f64 = found.iter().zip(expected).map(|(&a, &b)| f64::from(a - b).powi(2)).sum();
    let off = (off / expected.len() as f64).sqrt() as f32;
    assert!(off <= HALF * typical, "{what}: off by {off} on average, where {typical} is typical");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let allowed = HALF * (expected.abs() + factor * typical);
        assert!(
            (found - expected).abs() <= allowed,
            "{what}, element {i}: {found}, not {expected} ({typical} is typical)"
        );
    }
}

/// Shapes next to the width of every vector, with several tasks in the last.
const SHAPES: [[usize; 2]; 6] = [[1, 1], [1, 7], [3, 65], [5, 32], [70, 33], [1000, 48]];

#[test]
fn operators_on_elements_round_once() {
    for shape in SHAPES {
        let x = || scaled("x", &shape, 2.0, 0.0);
        for kind in [Kind::Tanh, Kind::Erf] {
            rounds_once("gelu", vec![x()], &|tape, v, _| gelu(tape, &v[0], kind));
        }
        rounds_once("relu2", vec![x()], &|tape, v, _| relu2(tape, &v[0]));
        rounds_once("residual", vec![x(), activation("delta", &shape)], &|tape, v, _| {
            residual(tape, &v[0], v[1].clone())
        });
        let [rows, width] = shape;
        let gated = scaled("gated", &[rows, 2 * width], 2.0, 0.0);
        rounds_once("swiglu", vec![gated], &|tape, v, _| swiglu(tape, &v[0]));
        let mask = Mask::new(3, 11, 2, 1, 0.25);
        rounds_once("dropout", vec![activation("x", &[1, rows, width])], &|tape, v, _| {
            dropout(tape, v[0].clone(), mask, &[4])
        });
    }
}

#[test]
fn norms_round_once() {
    for shape in SHAPES {
        let width = shape[1];
        let inputs = || vec![scaled("x", &shape, 2.0, 0.5), param("w", &[width]), param("b", &[width])];
        rounds_once("layernorm", inputs(), &|tape, v, p| layernorm(tape, &v[0], p[0], Some(p[1]), 1e-5));
        rounds_once("rmsnorm", inputs()[..2].iter().map(same).collect(), &|tape, v, p| {
            rmsnorm(tape, &v[0], p[0], 1e-5)
        });
        // The gradient that came along the residual stream is added before the rounding, not after it.
        rounds_once("layernorm next to a residual", inputs(), &|tape, v, p| {
            let y = layernorm(tape, &v[0], p[0], Some(p[1]), 1e-5)?;
            Ok(beside(tape, &v[0], y))
        });
        rounds_once("rmsnorm next to a residual", inputs()[..2].iter().map(same).collect(), &|tape, v, p| {
            let y = rmsnorm(tape, &v[0], p[0], 1e-5)?;
            Ok(beside(tape, &v[0], y))
        });
    }
}

fn same(input: &Input) -> Input {
    Input { values: input.values.clone(), shape: input.shape.clone(), is_param: input.is_param }
}

/// The second of two values, whose gradient goes to both.
fn beside(tape: &mut Tape<'_>, x: &Var, y: Var) -> Var {
    struct Both([Option<taper::tape::VarId>; 2]);
    impl taper::tape::Backward for Both {
        fn backward(
            self: Box<Self>,
            mut douts: Vec<Tensor>,
            context: &mut taper::tape::Context<'_>,
        ) -> taper::Result<()> {
            let d = douts.pop().expect("one output");
            context.add(self.0[0], d.clone())?;
            context.add(self.0[1], d)
        }
    }
    let ids = [x.id(), y.id()];
    tape.record(&[], y.into_value(), || Box::new(Both(ids)))
}

/// The sum inside a norm is rounded, and the norm is that of the rounded sum: as on a GPU.
#[test]
fn norms_of_sums_are_the_two_operators() {
    let inputs =
        [scaled("x", &[70, 33], 2.0, 0.5), activation("delta", &[70, 33]), param("w", &[33]), param("b", &[33])];
    let run = |operator: Operator<'_>| run_in(DType::BF16, |len| normal("dout", len), &inputs, operator).unwrap();
    let fused = run(&|tape, v, p| Ok(add_layernorm(tape, &v[0], v[1].clone(), p[0], Some(p[1]), 1e-5)?[1].clone()));
    let apart = run(&|tape, v, p| {
        let sum = residual(tape, &v[0], v[1].clone())?;
        layernorm(tape, &sum, p[0], Some(p[1]), 1e-5)
    });
    assert_eq!(fused, apart);
    let fused = run(&|tape, v, p| Ok(add_rmsnorm(tape, &v[0], v[1].clone(), p[0], 1e-5)?[1].clone()));
    let apart = run(&|tape, v, p| {
        let sum = residual(tape, &v[0], v[1].clone())?;
        rmsnorm(tape, &sum, p[0], 1e-5)
    });
    assert_eq!(fused, apart);
}

#[test]
fn tables_and_rotations_round_once() {
    let ids: Vec<u32> = (0..260).map(|i| (i * i * 7 % 30) as u32).collect();
    let tokens = Tensor::from_u32(&ids, &[4, 65]).unwrap();
    let begins: Vec<u32> = (0..260).map(|i| i % 65 / 13 * 13).collect();
    let documents = Documents::new(&begins, 4, 65, Device::Cpu).unwrap();
    for documents in [None, Some(&documents)] {
        for width in [1, 40, 65] {
            let tables = vec![param("wte", &[30, width]), param("wpe", &[70, width])];
            rounds_once("embedding", tables, &|tape, _, p| embedding(tape, &tokens, p[0], Some(p[1]), 3, documents));
        }
        let heads = Heads { n_head: 4, n_kv_head: 2, head_dim: 18 };
        let table = RopeTable::new(80, 18, 10_000.0).unwrap();
        rounds_once("rope", vec![activation("qkv", &[4, 65, heads.packed()])], &|tape, v, _| {
            rope(tape, v[0].clone(), heads, &table, 5, documents)
        });
    }
}

#[test]
fn linear_layers_round_sums() {
    for (rows, ins, outs) in [(1, 3, 5), (2, 16, 16), (65, 33, 47), (130, 64, 192), (700, 40, 2000)] {
        let inputs = || vec![activation("x", &[rows, ins]), param("w", &[outs, ins]), param("b", &[outs])];
        // f32 sums in another order are all that differs before the rounding.
        is_near("linear with bias", inputs(), 0.01, &|tape, v, p| linear(tape, &v[0], p[0], Some(p[1])));
        is_near("linear", inputs()[..2].iter().map(same).collect(), 0.01, &|tape, v, p| {
            linear(tape, &v[0], p[0], None)
        });
        let [wide, narrow] = both(inputs()[..2].iter().map(same).collect(), &|tape, v, p| {
            Ok(Var::constant(forward_f32(v[0].value(), &tape.params().weight(p[0]))?))
        });
        let far = wide[0].iter().zip(&narrow[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "logits are not rounded: {far}");
    }
    for (rows, rank, first, outs) in [(7, 2, 4, 12), (900, 8, 40, 1800)] {
        let correction = [param("a", &[rank, 16]), param("b", &[outs - first - 1, rank])];
        let inputs = [activation("x", &[rows, 16]), activation("y", &[rows, outs])].into_iter().chain(correction);
        // `x a` is rounded between the two products, `dy b` on the way back.
        is_near("low rank", inputs.collect(), 4.0, &|tape, v, p| {
            low_rank(tape, v[1].clone(), &v[0], (p[0], p[1]), first, 0.5)
        });
    }
}

/// Rows of documents, and shapes around every edge of the blocks.
#[test]
fn attention_rounds_probabilities() {
    let begins: Vec<u32> =
        (0..660).map(|i| [0, 64, 65, 130][[64, 65, 130, 330].partition_point(|&end| end <= i % 330)]).collect();
    let documents = Documents::new(&begins, 2, 330, Device::Cpu).unwrap();
    let mask = Mask::new(5, 11, 3, 2, 0.25);
    for (b, t, n_head, n_kv_head, head_dim) in
        [(1, 1, 1, 1, 8), (3, 7, 2, 2, 8), (2, 65, 4, 2, 16), (1, 130, 2, 2, 5), (2, 330, 4, 1, 64)]
    {
        let heads = Heads { n_head, n_kv_head, head_dim };
        let sequences: Vec<u32> = (0..b as u32).map(|i| 40 + 3 * i).collect();
        let dropout = AttentionDropout { mask, sequences: &sequences };
        let factor = 5.0 * (head_dim as f32).sqrt();
        for dropout in [None, Some(dropout)] {
            for documents in [None, (t == 330).then_some(&documents)] {
                let what = format!("attention, T={t} D={head_dim}, {}", dropout.is_some());
                // The gradient of a score has the row sum of dO O in it, with D roundings of O; it is multiplied with a
                // key (normal: up to 4) over sqrt(D), and where a query sees one key alone nothing else is left of it.
                is_near(&what, vec![activation("qkv", &[b, t, heads.packed()])], factor, &|tape, v, _| {
                    attention(tape, &v[0], heads, dropout, documents)
                });
            }
        }
    }
}

#[test]
fn cached_attention_is_attention() {
    let heads = Heads { n_head: 4, n_kv_head: 2, head_dim: 24 };
    let (b, t) = (2, 290);
    let narrow = |tensor: Tensor| tensor.to_dtype(DType::BF16).unwrap();
    let qkv = narrow(Tensor::from_f32(&normal("cached", b * t * heads.packed()), &[b, t, heads.packed()]).unwrap());
    let (whole, _) = forward(&qkv, heads, None, None).unwrap();
    let cache = [b, heads.n_kv_head, t + 3, heads.head_dim];
    // NaN in the unused part of the cache: nobody may read it.
    let empty = || narrow(Tensor::from_f32(&vec![f32::NAN; cache.iter().product()], &cache).unwrap());
    let (mut keys, mut values) = (empty(), empty());
    let mut past = 0;
    for part in [70, 1, 1, 200, 1, 17] {
        let mut rows = Tensor::empty(Device::Cpu, DType::BF16, &[b, part, heads.packed()]).unwrap();
        let mut expected = Tensor::empty(Device::Cpu, DType::BF16, &[b, part, heads.width()]).unwrap();
        for b in 0..b {
            let first = b * t + past;
            let row = qkv.view(first * heads.packed(), &[part * heads.packed()]);
            rows.copy_part(b * part * heads.packed(), &row).unwrap();
            let row = whole.view(first * heads.width(), &[part * heads.width()]);
            expected.copy_part(b * part * heads.width(), &row).unwrap();
        }
        let mut out = Tensor::empty(Device::Cpu, DType::BF16, &[b, part, heads.width()]).unwrap();
        forward_cached(&mut out, &rows, &mut keys, &mut values, heads, (0, past)).unwrap();
        // Both round: a token alone does not round its probabilities.
        close("cached", &out.to_vec_f32().unwrap(), &expected.to_vec_f32().unwrap(), 4.0);
        past += part;
    }
}

#[test]
fn the_classifier_rounds_the_gradient_of_logits() {
    for (n, c, v) in [(1, 3, 2), (7, 16, 65), (130, 24, 97), (2_500, 8, 4_099)] {
        let mut targets: Vec<u32> = (0..n).map(|i| (i * 31 % v) as u32).collect();
        if n > 3 {
            targets[2] = IGNORE;
        }
        // Its gradient comes with the forward pass, into the tape's own buffer.
        let run = |dtype: DType| {
            let mut layout = Layout::default();
            let weight = layout.push("w", &[v, c]);
            let mut params = Params::zeros(layout, Device::Cpu).unwrap();
            params.set(weight, &rounded(&normal("w", v * c))).unwrap();
            let params = params.with_compute(dtype).unwrap();
            let mut grads = Gradients::zeros_like(&params).unwrap();
            let mut other = Gradients::zeros_like(&params).unwrap();
            let mut tape = Tape::training(&params, &mut grads);
            let x = Tensor::from_f32(&rounded(&normal("x", n * c)), &[n, c]).unwrap().to_dtype(dtype).unwrap();
            let input = tape.input(x);
            let scale = Scale { by: 1.0 / n as f32, loss_scale: None };
            let loss = classifier(&mut tape, &input, weight, &targets, scale).unwrap();
            let silent = classifier(&mut Tape::inference(&params), &input, weight, &targets, scale).unwrap();
            assert_eq!(bits(silent.losses.f32()), bits(loss.losses.f32()));
            let one = Tensor::from_f32(&[1.0], &[1]).unwrap();
            let dx = tape.backward_from(&loss.root, one, &mut other, &[&input], None).unwrap().pop().flatten().unwrap();
            assert_eq!(dx.dtype(), dtype);
            [loss.losses.f32().to_vec(), dx.to_vec_f32().unwrap(), grads.of(weight).to_vec()]
        };
        let [wide, narrow] = [DType::F32, DType::BF16].map(run);
        // Logits are f32, so losses are what they are.
        close("losses", &narrow[0], &wide[0], 0.0);
        let far = wide[0].iter().zip(&narrow[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "losses are off by {far}");
        close("dx", &narrow[1], &wide[1], 2.0);
        close("dw", &narrow[2], &wide[2], 2.0);
    }
}

/// Sums, products and norms that are cut into tasks.
#[test]
fn the_number_of_threads_changes_no_bit() {
    let heads = Heads { n_head: 6, n_kv_head: 2, head_dim: 24 };
    super::run::same_bits_on_any_number_of_threads(
        &[activation("qkv", &[2, 300, heads.packed()]), param("w", &[70, 144]), param("b", &[70])],
        |tape, v, p| {
            let y = attention(tape, &v[0], heads, None, None)?;
            linear(tape, &y, p[0], Some(p[1]))
        },
    );
}

#[test]
fn updates_write_the_copy_that_they_should() {
    let mut layout = Layout::default();
    let weight = layout.push("weight", &[50, 401]);
    let bias = layout.push("bias", &[33]);
    let len = layout.len();
    let run = |dtype: DType| {
        let mut params = Params::zeros(layout.clone(), Device::Cpu).unwrap();
        params.set(weight, &normal("w", 20_050)).unwrap();
        params.set(bias, &normal("b", 33)).unwrap();
        let mut params = params.with_compute(dtype).unwrap();
        let mut grads = Gradients::zeros_like(&params).unwrap();
        let mut m = Tensor::zeros(Device::Cpu, DType::F32, &[len]).unwrap();
        let mut v = Tensor::zeros(Device::Cpu, DType::F32, &[len]).unwrap();
        for t in 1..=3 {
            grads.of_mut(weight).copy_from_slice(&normal(&format!("gw{t}"), 20_050));
            grads.of_mut(bias).copy_from_slice(&normal(&format!("gb{t}"), 33));
            let with = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, t, grad_scale: 0.5 };
            adamw(&mut params, &grads, &mut m, &mut v, &with);
        }
        params
    };
    let (wide, narrow) = (run(DType::F32), run(DType::BF16));
    assert_eq!(bits(wide.flat().f32()), bits(narrow.flat().f32()), "the master weights do not depend on the copy");
    for id in [weight, bias] {
        assert_eq!(narrow.weight(id).to_vec_f32().unwrap(), rounded(wide.value(id).f32()));
    }
}
