//! The engine against the operators of training, the formats against float64, every instruction set against plain Rust.

use proptest::prelude::*;

use super::kernels::{BLOCK, Isa};
use super::matrix::Matrix;
use super::pool::Pool;
use super::product::{Quantised, Rows, product};
use super::{Cpu, Options, Packed};
use crate::arch::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use crate::arch::layout::parameter_shapes;
use crate::decode::{CacheFormat, Decode, Feed, WeightFormat};
use crate::model::Gpt;
use crate::tape::Params;
use crate::tensor::Tensor;

const FORMATS: [WeightFormat; 5] =
    [WeightFormat::Fp32, WeightFormat::Bf16, WeightFormat::Fp16, WeightFormat::Q8_0, WeightFormat::Q4_0];
const CACHES: [CacheFormat; 4] = [CacheFormat::Fp32, CacheFormat::Bf16, CacheFormat::Fp16, CacheFormat::Int8];

/// A number from 0 to below 1 that looks random: the mixer of SplitMix64 (Steele et al. 2014).
fn uniform(seed: u64, stream: u64, index: u64) -> f64 {
    let mut x =
        (seed << 40 ^ stream << 32 ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ x >> 31) >> 11) as f64 / (1u64 << 53) as f64
}

fn noise(seed: u64, n: usize) -> Vec<f32> {
    (0..n).map(|i| 2.0 * uniform(seed, 0, i as u64) as f32 - 1.0).collect()
}

fn tokens(seed: u64, n: usize, vocabulary: usize) -> Vec<u32> {
    (0..n).map(|i| (uniform(seed, 1, i as u64) * vocabulary as f64) as u32).collect()
}

/// Every option of a shape, with extents that no block, panel or tile divides.
fn shapes() -> Vec<ModelConfig> {
    let gpt2 = ModelConfig { mlp_dim: 70, ..ModelConfig::gpt2(2, 4, 36, 90, 83) };
    let llama = ModelConfig {
        norm: Norm::Rmsnorm,
        mlp: Mlp::Swiglu,
        position: Position::Rope,
        rope_theta: 100.0,
        head_dim: 8,
        bias: false,
        qkv_bias: false,
        tie_embeddings: false,
        ..gpt2.clone()
    };
    vec![
        ModelConfig { position: Position::None, n_kv_head: 1, mlp: Mlp::Relu2, ..gpt2.clone() },
        ModelConfig { n_kv_head: 2, head_dim: 6, norm_position: NormPosition::Post, ..gpt2.clone() },
        ModelConfig { qkv_bias: false, bias: false, tie_embeddings: false, mlp: Mlp::GeluErf, ..gpt2.clone() },
        ModelConfig { n_head: 18, n_kv_head: 2, head_dim: 20, ..llama.clone() },
        ModelConfig { norm_position: NormPosition::Post, qkv_bias: true, bias: true, head_dim: 10, ..llama.clone() },
        llama,
        gpt2,
    ]
}

/// Weights large enough for uneven attention, biases that are not zero, norms around one.
fn model(config: &ModelConfig, seed: u64) -> (Gpt, Params) {
    let model = Gpt::new(config.clone()).unwrap();
    let mut params = model.initialise(seed).unwrap();
    for (i, (name, shape)) in parameter_shapes(config).into_iter().enumerate() {
        let centre = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let values: Vec<f32> =
            noise(seed + i as u64, shape.iter().product()).iter().map(|x| centre + 0.3 * x).collect();
        params.set(params.layout().find(&name).unwrap(), &values).unwrap();
    }
    (model, params)
}

fn one(tokens: &[u32]) -> [Feed<'_>; 1] {
    [Feed { slot: 0, tokens }]
}

#[test]
fn every_shape_equals_the_operators_of_training() {
    for (i, config) in shapes().into_iter().enumerate() {
        let (gpt, params) = model(&config, i as u64);
        let ids = tokens(i as u64, config.context_length, config.vocab_size);
        let whole = gpt.logits(&params, &Tensor::from_u32(&ids, &[1, ids.len()]).unwrap()).unwrap();
        let most = whole.f32().iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let packed = Packed::new(&config, &params, WeightFormat::Fp32).unwrap();
        for isa in Isa::available() {
            let mut engine = Cpu::new(&packed, Options { isa, threads: 2, ..Options::new(1, config.context_length) });
            let (mut logits, mut at) = (Vec::new(), 0);
            for piece in [1, 1, 30, 2, 9, 47] {
                engine.feed(&one(&ids[at..at + piece]), &mut logits).unwrap();
                at += piece;
                let expected = &whole.f32()[(at - 1) * config.vocab_size..][..config.vocab_size];
                let off = logits.iter().zip(expected).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
                // float32's rounding over two layers, in another order of sums.
                assert!(off < 4e-6 * most, "{config:?} by {isa:?} after {at}: off by {off:e} of {most}");
            }
            assert!(engine.feed(&one(&[1]), &mut logits).unwrap_err().to_string().contains("91 tokens"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// The rule: a sequence's logits are the same bits whatever stands next to it, in whatever pieces and order it is fed,
    /// on any number of threads.
    #[test]
    fn logits_depend_on_the_sequence_alone(seed in 0u64..1_000_000, shape in 0usize..7, format in 0usize..5, cache in 0usize..4) {
        let config = &shapes()[shape];
        let (_, params) = model(config, seed);
        let packed = Packed::new(config, &params, FORMATS[format]).unwrap();
        let options = Options { cache: CACHES[cache], threads: 1, ..Options::new(1, config.context_length) };
        let mut draw = { let mut i = 0; move |below: usize| { i += 1; (uniform(seed, 2, i) * below as f64) as usize } };
        // Five sequences, each alone and token by token.
        let texts: Vec<Vec<u32>> = (0..5).map(|i| tokens(seed + i, 1 + draw(60), config.vocab_size)).collect();
        let mut alone = Cpu::new(&packed, options);
        let expected: Vec<Vec<Vec<f32>>> = texts.iter().map(|text| {
            alone.truncate(0, 0);
            text.iter().map(|token| { let mut out = Vec::new(); alone.feed(&one(&[*token]), &mut out).unwrap(); out }).collect()
        }).collect();
        // And all of them in random pieces, random slots and on three threads.
        let mut beside = Cpu::new(&packed, Options { slots: 7, threads: 3, ..options });
        let slots: Vec<usize> = (0..5).map(|i| (i * 3 + seed as usize) % 7).collect();
        let mut at = [0usize; 5];
        let mut logits = Vec::new();
        while at.iter().zip(&texts).any(|(at, text)| *at < text.len()) {
            let first = draw(5);
            let mut chosen: Vec<(usize, usize)> = Vec::new();
            for i in (0..5).map(|i| (i + first) % 5) {
                let left = texts[i].len() - at[i];
                if left > 0 && draw(3) > 0 {
                    let most = if draw(2) == 0 { 1 } else { left };
                    chosen.push((i, 1 + draw(most)));
                }
            }
            let feeds: Vec<Feed<'_>> = chosen.iter().map(|&(i, n)| Feed { slot: slots[i], tokens: &texts[i][at[i]..at[i] + n] }).collect();
            beside.feed(&feeds, &mut logits).unwrap();
            for ((i, n), found) in chosen.iter().zip(logits.chunks(config.vocab_size)) {
                at[*i] += n;
                prop_assert!(expected[*i][at[*i] - 1] == found, "text {i} after {} of {config:?}", at[*i]);
            }
        }
    }
}

/// A product through the packed matrix.
fn multiply(isa: Isa, w: &Matrix, x: &[f32], rows: usize) -> Vec<f32> {
    let mut pool = Pool::new(1);
    let mut quantised = Quantised::new(rows, w.k());
    quantised.fill(&mut pool, x, w.k(), rows, w.k());
    let mut out = vec![f32::NAN; rows * w.n()];
    product(&mut pool, isa, Rows { data: x, stride: w.k(), count: rows }, &quantised, w, &mut out, &|_, _| {});
    out
}

#[test]
fn formats_round_no_more_than_they_must() {
    let (n, k) = (37, 100);
    let weights = noise(1, n * k);
    for format in FORMATS {
        let matrix = Matrix::pack(format, &weights, n, k);
        let mut row = vec![0.0; k];
        for (at, weights) in weights.chunks(k).enumerate() {
            matrix.row(at, &mut row);
            for (block, found) in weights.chunks(BLOCK).zip(row.chunks(BLOCK)) {
                let most = block.iter().fold(0.0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
                for (w, found) in block.iter().zip(found) {
                    // Half a step of the format, plus what rounding the scale to fp16 (2^-11) moves the number itself.
                    let bound = match format {
                        WeightFormat::Fp32 => 0.0,
                        WeightFormat::Bf16 => w.abs() / 256.0,
                        WeightFormat::Fp16 => w.abs() / 2048.0,
                        WeightFormat::Q8_0 => most.abs() / 127.0 * 0.501 + w.abs() / 2000.0,
                        WeightFormat::Q4_0 => {
                            // -8 steps to 7: what lies beyond the seventh is cut to it.
                            let step = most.abs() / 8.0;
                            step * (w / (most / -8.0) - 7.0).max(0.501) + w.abs() / 2000.0
                        }
                    };
                    assert!((w - found).abs() <= bound, "{format:?}: {w} became {found}, bound {bound}");
                }
            }
        }
    }
}

#[test]
fn products_are_those_of_float64_up_to_the_formats_rounding() {
    let (n, k, rows) = (37, 100, 11);
    let (weights, x) = (noise(2, n * k), noise(3, rows * k));
    for (format, isa) in FORMATS.iter().flat_map(|f| Isa::available().into_iter().map(move |isa| (*f, isa))) {
        let matrix = Matrix::pack(format, &weights, n, k);
        let found = multiply(isa, &matrix, &x, rows);
        let mut w = vec![0.0; k];
        for (at, found) in found.iter().enumerate() {
            let (r, column) = (at / n, at % n);
            matrix.row(column, &mut w);
            let (mut truth, mut bound) = (0.0f64, 0.0f64);
            for (x, w) in x[r * k..][..k].chunks(BLOCK).zip(w.chunks(BLOCK)) {
                // Activations of quantised products are rounded to half a step of their block.
                let step = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
                let rounding = if format.is_quantised() { f64::from(step) * 0.501 } else { 0.0 };
                for (&x, &w) in x.iter().zip(w) {
                    let (x, w) = (f64::from(x), f64::from(w));
                    truth += x * w;
                    // And each of the k sums to float32.
                    bound += (rounding + k as f64 * f64::from(f32::EPSILON) * x.abs()) * w.abs();
                }
            }
            assert!(
                (f64::from(*found) - truth).abs() <= bound,
                "{format:?} by {isa:?}: {found} for {truth}, {bound:e}"
            );
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits_for_blocks_and_nearly_for_floats() {
    for (n, k, rows) in [(16, 32, 1), (83, 100, 1), (37, 64, 13), (130, 96, 4), (7, 31, 9)] {
        let (weights, x) = (noise(4, n * k), noise(5, rows * k));
        for format in FORMATS {
            let matrix = Matrix::pack(format, &weights, n, k);
            let plain = multiply(Isa::Portable, &matrix, &x, rows);
            for isa in Isa::available() {
                let found = multiply(isa, &matrix, &x, rows);
                for (at, (a, b)) in plain.iter().zip(&found).enumerate() {
                    let x = &x[at / n * k..][..k];
                    // |x|, |w| <= 1: a fused product is rounded once, a plain one twice, k times over.
                    let bound = 2.0 * k as f32 * f32::EPSILON * x.iter().map(|x| x.abs()).sum::<f32>();
                    let same = if format.is_quantised() { a == b } else { (a - b).abs() <= bound };
                    assert!(same, "{format:?} by {isa:?}, {n} x {k}, {rows} rows: {b} for {a}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let weights = noise(6, 16 * 64);
    for format in FORMATS {
        let matrix = Matrix::pack(format, &weights, 16, 64);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = noise(7, 64);
            x[40] = bad;
            for isa in Isa::available() {
                let out = multiply(isa, &matrix, &x, 1);
                assert!(out.iter().all(|y| !y.is_finite()), "{format:?} by {isa:?}: {out:?}");
            }
        }
    }
    // Weights out of the range of fp16 are refused by name where fp16 holds them or their scales.
    let config = &shapes()[6];
    let (_, mut params) = model(config, 11);
    let place = params.layout().find("h.1.mlp.down.weight").unwrap();
    let mut values = params.value(place).f32().to_vec();
    values[7] = 1e9;
    params.set(place, &values).unwrap();
    for format in FORMATS {
        let found = Packed::new(config, &params, format);
        if matches!(format, WeightFormat::Fp32 | WeightFormat::Bf16) {
            assert!(found.is_ok());
        } else {
            let message = found.unwrap_err().to_string();
            assert!(message.contains("h.1.mlp.down.weight") && message.contains("element 7"), "{message}");
        }
    }
}

#[test]
fn the_logits_of_every_token_are_those_of_one_after_another() {
    let config = &ModelConfig { context_length: 700, ..shapes()[4].clone() };
    let (_, params) = model(config, 10);
    for format in [WeightFormat::Fp32, WeightFormat::Q4_0] {
        let packed = Packed::new(config, &params, format).unwrap();
        let ids = tokens(10, 600, config.vocab_size);
        let (mut alone, mut each) = (
            Cpu::new(&packed, Options::new(1, 700)),
            Cpu::new(&packed, Options { threads: 3, ..Options::new(1, 700) }),
        );
        let (mut logits, mut at) = (Vec::new(), 0);
        let mut compare = |found: &[f32]| {
            alone.feed(&one(&ids[at..=at]), &mut logits).unwrap();
            assert_eq!(logits, found, "{format:?}: after {at}");
            at += 1;
        };
        each.feed_each(0, &ids[..200], &mut compare).unwrap();
        each.feed_each(0, &ids[200..], &mut compare).unwrap();
        assert_eq!((at, each.len(0)), (600, 600));
    }
}

#[test]
fn a_slot_forgets_and_goes_on() {
    let config = &shapes()[5];
    let (_, params) = model(config, 9);
    let packed = Packed::new(config, &params, WeightFormat::Q8_0).unwrap();
    let mut engine = Cpu::new(&packed, Options { cache: CacheFormat::Int8, ..Options::new(2, 1000) });
    assert_eq!((engine.capacity(), engine.slots()), (config.context_length, 2));
    let (mut first, mut again) = (Vec::new(), Vec::new());
    engine.feed(&one(&[1, 2, 3, 4]), &mut first).unwrap();
    engine.truncate(0, 2);
    engine.feed(&one(&[9, 9, 9]), &mut again).unwrap();
    engine.truncate(0, 2);
    engine.feed(&one(&[3, 4]), &mut again).unwrap();
    assert_eq!(first, again);
    assert_eq!((engine.len(0), engine.len(1)), (4, 0));
    assert!(engine.feed(&[Feed { slot: 1, tokens: &[83] }], &mut again).is_err());
    assert_eq!((engine.len(0), engine.len(1)), (4, 0));
}
