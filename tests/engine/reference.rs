//! The oracle itself is anchored here: the reference engine against transformers and PyTorch, and, for the options that
//! transformers lacks, its gradients against finite differences of its own loss.
//!
//! Tolerances. The fixtures' numbers are float64 (gradients and weights rounded to float32), so the float64 engine must
//! agree to float32's rounding; the float32 engine may be at most twice as far away as torch's own float32 was
//! (`float32_error` in expected.json), plus one rounding of the largest value.

use crate::fixtures::{ALL, Fixture};
use candle_core::Tensor;
use taper::arch::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use taper::arch::layout::parameter_shapes;
use taper::reference::{AdamWSettings, Precision, Reference, ReferenceTrainer, ops};

type Params = Vec<(String, Vec<usize>, Vec<f32>)>;

fn reference(config: &ModelConfig, params: &Params, precision: Precision) -> Reference {
    let slices = params.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), v.as_slice()));
    Reference::new(config, slices, precision).unwrap()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, |worst, d| if d.is_nan() { f64::NAN } else { worst.max(d) })
}

fn settings(f: &Fixture) -> AdamWSettings {
    AdamWSettings {
        beta1: f.optimizer["beta1"],
        beta2: f.optimizer["beta2"],
        eps: f.optimizer["eps"],
        weight_decay: f.optimizer["weight_decay"],
        clip_norm: Some(f.optimizer["clip_norm"]),
    }
}

#[test]
fn logits_loss_and_every_gradient_equal_transformers() {
    for name in ALL {
        let f = Fixture::load(name);
        let exact = reference(&f.config, &f.params_f32(), Precision::F64);
        let single = reference(&f.config, &f.params_f32(), Precision::F32);
        // float64 against float64: only the order of sums differs.
        let off = distance(&exact.logits(&f.tokens, f.b, f.t).unwrap(), &f.logits);
        assert!(off < 1e-12, "{name}: logits are off by {off:e}");
        let off = distance(&single.logits(&f.tokens, f.b, f.t).unwrap(), &f.logits);
        assert!(off < 2.0 * f.torch_error("logits") + 1e-6, "{name}: float32 logits are off by {off:e}");

        let (loss, grads) = exact.loss_and_grads(&f.tokens, &f.targets, f.b, f.t).unwrap();
        assert!((loss - f.loss).abs() < 1e-12, "{name}: loss {loss} is not {}", f.loss);
        assert!((exact.loss(&f.tokens, &f.targets, f.b, f.t).unwrap() - f.loss).abs() < 1e-12);
        assert_eq!(grads.keys().collect::<Vec<_>>(), f.grads.keys().collect::<Vec<_>>());
        let (loss32, grads32) = single.loss_and_grads(&f.tokens, &f.targets, f.b, f.t).unwrap();
        assert!((loss32 - f.loss).abs() < 2.0 * f.torch_error("loss") + 1e-6, "{name}: float32 loss {loss32}");
        for (parameter, expected) in &f.grads {
            let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            let off = distance(&grads[parameter], expected);
            assert!(off <= largest * 6e-8 + 1e-15, "{name}: gradient of {parameter} is off by {off:e}");
            let off = distance(&grads32[parameter], expected);
            assert!(off <= 2.0 * f.torch_error("grads") + 1e-7, "{name}: float32 {parameter} is off by {off:e}");
        }
    }
}

#[test]
fn twenty_adamw_steps_equal_torch() {
    for name in ALL {
        let f = Fixture::load(name);
        for precision in [Precision::F64, Precision::F32] {
            let mut trainer =
                ReferenceTrainer::new(reference(&f.config, &f.params_f32(), precision), settings(&f)).unwrap();
            let exact = precision == Precision::F64;
            for (step, (x, y)) in f.train_tokens.iter().zip(&f.train_targets).enumerate() {
                let done = trainer.step(&[(x, y)], f.b, f.t, f.optimizer["lr"]).unwrap();
                assert!(done.applied);
                let slack = |kind: &str| if exact { 1e-10 } else { 2.0 * f.torch_error(kind) + 1e-5 };
                let off = (done.loss - f.losses[step]).abs();
                assert!(off < slack("losses"), "{name} {precision:?} step {step}: loss is off by {off:e}");
                let off = (done.grad_norm - f.grad_norms[step]).abs();
                assert!(off < slack("grad_norms"), "{name} {precision:?} step {step}: norm is off by {off:e}");
            }
            for (parameter, _, values) in trainer.model().parameters().unwrap() {
                // The gradient of a key bias is exactly zero without rope, so AdamW amplifies rounding noise there:
                // compare the rest (see scripts/make_fixtures.py).
                let skip = match f.config.position != Position::Rope && parameter.ends_with("attn.qkv.bias") {
                    true => f.config.n_embd..2 * f.config.n_embd,
                    false => 0..0,
                };
                for (i, (value, expected)) in values.iter().zip(&f.weights_after[&parameter]).enumerate() {
                    let off = (*value as f64 - expected).abs();
                    // Two roundings of values up to 2 in float64; 20 steps of rounding, through Adam's division, in float32.
                    let slack = if exact { 2.5e-7 } else { 1e-3 };
                    assert!(skip.contains(&i) || off < slack, "{name} {precision:?}: {parameter}[{i}] off by {off:e}");
                }
            }
        }
    }
}

#[test]
fn accumulated_batches_equal_one_large_batch() {
    let f = Fixture::load("gpt2_tiny");
    let start = || ReferenceTrainer::new(reference(&f.config, &f.params_f32(), Precision::F64), settings(&f)).unwrap();
    let (mut whole, mut parts) = (start(), start());
    let (x, y, t) = (&f.tokens, &f.targets, f.t);
    let one = whole.step(&[(x, y)], 2, t, 1e-3).unwrap();
    let two = parts.step(&[(&x[..t], &y[..t]), (&x[t..], &y[t..])], 1, t, 1e-3).unwrap();
    assert!((one.loss - two.loss).abs() < 1e-12 && (one.grad_norm - two.grad_norm).abs() < 1e-12);
    let (loss_1, loss_2) = (whole.model().loss(x, y, 2, t).unwrap(), parts.model().loss(x, y, 2, t).unwrap());
    assert!((loss_1 - loss_2).abs() < 1e-10 && loss_1 < one.loss);
}

#[test]
fn training_goes_on_from_a_saved_state_bit_for_bit() {
    let f = Fixture::load("llama_tiny");
    let trainer =
        |params: &Params| ReferenceTrainer::new(reference(&f.config, params, Precision::F32), settings(&f)).unwrap();
    let run = |trainer: &mut ReferenceTrainer, steps: std::ops::Range<usize>| {
        steps.map(|i| trainer.step(&[(&f.train_tokens[i], &f.train_targets[i])], f.b, f.t, 1e-2).unwrap()).last()
    };
    let mut whole = trainer(&f.params_f32());
    let last = run(&mut whole, 0..8);
    let mut first = trainer(&f.params_f32());
    run(&mut first, 0..5);
    let (updates, moments) = first.state().unwrap();
    assert_eq!(updates, 5);
    let mut second = trainer(&first.model().parameters().unwrap());
    assert!(second.restore(updates, &moments[1..]).unwrap_err().to_string().contains("does not fit"));
    second.restore(updates, &moments).unwrap();
    assert_eq!(run(&mut second, 5..8), last);
    assert_eq!(second.model().parameters().unwrap(), whole.model().parameters().unwrap());
}

/// Shapes that no fixture covers; every option stands in at least one.
fn unusual_shapes() -> Vec<ModelConfig> {
    let base = ModelConfig {
        n_kv_head: 2,
        head_dim: 6,
        mlp_dim: 14,
        position: Position::Rope,
        rope_theta: 100.0,
        mlp: Mlp::Relu2,
        bias: false,
        ..ModelConfig::gpt2(2, 4, 10, 7, 11)
    };
    vec![
        ModelConfig { norm_position: NormPosition::Post, bias: true, mlp: Mlp::Gelu, ..base.clone() },
        ModelConfig { position: Position::None, n_kv_head: 1, tie_embeddings: false, ..base.clone() },
        ModelConfig { norm: Norm::Rmsnorm, norm_position: NormPosition::Post, mlp: Mlp::Swiglu, ..base.clone() },
        ModelConfig { position: Position::Learned, n_kv_head: 4, qkv_bias: false, mlp: Mlp::GeluErf, ..base.clone() },
        base,
    ]
}

/// Numbers that look random, from a linear congruential generator: tests must not depend on `taper::random`.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1u64 << 24) as f32) * 2.0 - 1.0
    }
}

fn random_params(config: &ModelConfig, seed: u64) -> Params {
    let mut next = noise(seed);
    parameter_shapes(config)
        .into_iter()
        .map(|(name, shape)| {
            let centre = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
            let values = (0..shape.iter().product()).map(|_| centre + 0.5 * next()).collect();
            (name, shape, values)
        })
        .collect()
}

#[test]
fn gradients_of_unusual_shapes_equal_finite_differences() {
    for (case, config) in unusual_shapes().iter().enumerate() {
        let params = random_params(config, case as u64);
        let (x, y): (Vec<u32>, Vec<u32>) =
            ((0..14).map(|i| i * 5 % 11).collect(), (0..14).map(|i| i * 7 % 11).collect());
        let (_, grads) = reference(config, &params, Precision::F64).loss_and_grads(&x, &y, 2, 7).unwrap();
        for (at, (name, _, values)) in params.iter().enumerate() {
            for index in [0, values.len() / 2, values.len() - 1] {
                // Steps that float32 holds exactly, or the quotient would be of another point.
                let loss_at = |delta: f32| {
                    let mut moved = params.clone();
                    moved[at].2[index] = values[index] + delta;
                    let exact = moved[at].2[index] as f64;
                    (exact, reference(config, &moved, Precision::F64).loss(&x, &y, 2, 7).unwrap())
                };
                let ((a, low), (b, high)) = (loss_at(-1e-4), loss_at(1e-4));
                let (slope, grad) = ((high - low) / (b - a), grads[name][index]);
                let off = (slope - grad).abs();
                assert!(off < 1e-6 + 1e-4 * grad.abs(), "case {case}: {name}[{index}] has {grad:e}, slope {slope:e}");
            }
        }
    }
}

#[test]
fn operators_have_gradients_equal_to_finite_differences() {
    type Operator = Box<dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>>;
    let cases: Vec<(&str, Vec<Vec<usize>>, Operator)> = vec![
        (
            "layernorm",
            vec![vec![3, 5], vec![5], vec![5]],
            Box::new(|x| ops::layernorm(&x[0], &x[1], Some(&x[2]), 1e-3)),
        ),
        ("rmsnorm", vec![vec![3, 5], vec![5]], Box::new(|x| ops::rmsnorm(&x[0], &x[1], 1e-3))),
        ("gelu", vec![vec![7]], Box::new(|x| ops::gelu(&x[0]))),
        ("gelu_erf", vec![vec![7]], Box::new(|x| ops::gelu_erf(&x[0]))),
        ("relu2", vec![vec![7]], Box::new(|x| ops::relu2(&x[0]))),
        ("swiglu", vec![vec![2, 6]], Box::new(|x| ops::swiglu(&x[0]))),
        ("linear", vec![vec![2, 3, 4], vec![5, 4], vec![5]], Box::new(|x| ops::linear(&x[0], &x[1], Some(&x[2])))),
        ("rope", vec![vec![1, 2, 3, 4]], Box::new(|x| ops::rope(&x[0], 100.0, 2))),
        (
            "causal_attention",
            vec![vec![2, 4, 3, 5], vec![2, 2, 3, 5], vec![2, 2, 3, 5]],
            Box::new(|x| ops::causal_attention(&x[0], &x[1], &x[2])),
        ),
        (
            "embedding",
            vec![vec![4, 3]],
            Box::new(|x| ops::embedding(&x[0], &Tensor::new(&[[1u32, 3], [1, 0]], x[0].device())?)),
        ),
        (
            "cross_entropy",
            vec![vec![3, 4]],
            Box::new(|x| ops::cross_entropy(&x[0], &Tensor::new(&[1u32, 3, 0], x[0].device())?)),
        ),
    ];
    for (name, shapes, operator) in &cases {
        let mut next = noise(name.len() as u64);
        let inputs: Vec<Vec<f32>> =
            shapes.iter().map(|s| (0..s.iter().product()).map(|_| 2.0 * next()).collect()).collect();
        let run = |inputs: &[Vec<f32>], dout: &[f32]| {
            let pairs: Vec<_> = inputs.iter().zip(shapes).map(|(v, s)| (v.as_slice(), s.as_slice())).collect();
            ops::grad_check(&pairs, dout, operator).unwrap()
        };
        let outputs = {
            let pairs: Vec<Tensor> = inputs
                .iter()
                .zip(shapes)
                .map(|(v, s)| Tensor::from_slice(v, s.as_slice(), &candle_core::Device::Cpu).unwrap())
                .collect();
            operator(&pairs).unwrap().elem_count()
        };
        let dout: Vec<f32> = (0..outputs).map(|_| next()).collect();
        let (_, grads) = run(&inputs, &dout);
        for (i, values) in inputs.iter().enumerate() {
            for j in 0..values.len() {
                let at = |delta: f32| {
                    let mut moved = inputs.clone();
                    moved[i][j] += delta;
                    let (out, _) = run(&moved, &dout);
                    (moved[i][j] as f64, out.iter().zip(&dout).map(|(o, d)| o * *d as f64).sum::<f64>())
                };
                let ((a, low), (b, high)) = (at(-1e-3), at(1e-3));
                let (slope, grad) = ((high - low) / (b - a), grads[i][j]);
                assert!((slope - grad).abs() < 1e-4, "{name}: input {i}[{j}] has {grad}, slope {slope}");
            }
        }
    }
}

#[test]
fn a_function_that_cuts_the_gradient_is_found_out() {
    let x = [1.0f32, 2.0];
    let cut = ops::grad_check(&[(&x, &[2])], &[1.0, 1.0], |t| t[0].detach().sqr());
    assert!(cut.unwrap_err().to_string().contains("input 0 gets no gradient"));
}

#[test]
fn bad_input_is_an_error_that_says_where() {
    let f = Fixture::load("gpt2_tiny");
    let params = f.params_f32();
    let model = reference(&f.config, &params, Precision::F32);
    let says = |error: taper::Error, part: &str| assert!(error.to_string().contains(part), "{error}");
    says(model.logits(&[1, 97], 1, 2).unwrap_err(), "token 1 is 97, beyond the vocabulary of 97");
    says(model.logits(&[0; 25], 1, 25).unwrap_err(), "longer than the model's context of 24");
    says(model.logits(&[0; 3], 1, 2).unwrap_err(), "3 tokens cannot be a batch");
    let slices = || params.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), v.as_slice()));
    let dropout = ModelConfig { dropout: 0.1, ..f.config.clone() };
    says(Reference::new(&dropout, slices(), Precision::F32).err().unwrap(), "has no dropout");
    says(Reference::new(&f.config, slices().skip(1), Precision::F32).err().unwrap(), "is missing");
    let untied = ModelConfig { bias: false, ..f.config.clone() };
    says(Reference::new(&untied, slices(), Precision::F32).err().unwrap(), "the model has no parameter");
    let wide = ModelConfig { mlp_dim: 5, ..f.config.clone() };
    says(Reference::new(&wide, slices(), Precision::F32).err().unwrap(), "the model needs [36, 5]");
}
