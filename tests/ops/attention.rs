//! `ops::attention`: the definition is the softmax with a T x T matrix of scores, as in a textbook.

use super::oracle::{activation, check, normal};
use candle_core::{D, DType, Device as CandleDevice, Result as CandleResult, Tensor as CTensor};
use taper::device::Device;
use taper::ops::attention::{AttentionDropout, Heads, attention, forward, forward_cached};
use taper::ops::documents::Documents;
use taper::random::Mask;
use taper::tape::{Gradients, Layout, Params, Tape};
use taper::tensor::{DType as TensorType, Tensor};

fn heads(n_head: usize, n_kv_head: usize, head_dim: usize) -> Heads {
    Heads { n_head, n_kv_head, head_dim }
}

/// The definition; `factors` [B, H, T, T] multiply the probabilities.
fn composed(qkv: &CTensor, heads: Heads, factors: Option<&[f32]>) -> CandleResult<CTensor> {
    composed_within(qkv, heads, factors, None)
}

/// The definition within documents, of which `begins` [B, T] says where each token's begins.
fn composed_within(
    qkv: &CTensor,
    heads: Heads,
    factors: Option<&[f32]>,
    begins: Option<&[u32]>,
) -> CandleResult<CTensor> {
    let (b, t, _) = qkv.dims3()?;
    let (h, kv, d) = (heads.n_head, heads.n_kv_head, heads.head_dim);
    let split = |first: usize, n: usize| {
        let part = qkv.narrow(2, first * d, n * d)?.reshape((b, t, n, d))?.transpose(1, 2)?.contiguous()?;
        // Each key-value head stands for a group of query heads.
        part.unsqueeze(2)?.broadcast_as((b, n, h / n, t, d))?.contiguous()?.reshape((b, h, t, d))
    };
    let (q, k, v) = (split(0, h)?, split(h, kv)?, split(h + kv, kv)?);
    let unseen = |i: usize| {
        let (row, key) = (i / t, i % t);
        key > row % t || begins.is_some_and(|begins| key < begins[row] as usize)
    };
    let causal: Vec<f32> = (0..b * t * t).map(|i| if unseen(i) { f32::NEG_INFINITY } else { 0.0 }).collect();
    let causal = CTensor::from_slice(&causal, (b, 1, t, t), &CandleDevice::Cpu)?.to_dtype(qkv.dtype())?;
    let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (d as f64).sqrt())?.broadcast_add(&causal)?;
    let p = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let mut p = p.broadcast_div(&p.sum_keepdim(D::Minus1)?)?;
    if let Some(factors) = factors {
        p = (p * CTensor::from_slice(factors, (b, h, t, t), &CandleDevice::Cpu)?.to_dtype(qkv.dtype())?)?;
    }
    p.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((b, t, h * d))
}

/// The factors of [`AttentionDropout`] as a tensor [B, H, T, T], element by element from the documented numbering.
fn factors(mask: &Mask, sequences: &[u32], heads: Heads, t: usize) -> Vec<f32> {
    let mut all = Vec::new();
    for &sequence in sequences {
        for row in 0..heads.n_head * t {
            for k in 0..t {
                let element = row * t.next_multiple_of(8) + k;
                all.push(mask.block(sequence, (element / 8) as u64)[element % 8]);
            }
        }
    }
    all
}

/// Shapes around every edge: one token, less than a block, one more than a block of queries or of keys, several.
const SHAPES: [(usize, usize, usize, usize, usize); 11] = [
    (1, 1, 1, 1, 8),
    (2, 1, 3, 3, 5),
    (3, 7, 2, 2, 8),
    (2, 33, 6, 1, 5),
    (1, 64, 1, 1, 64),
    (2, 65, 4, 2, 16),
    (1, 100, 2, 1, 80),
    (1, 128, 1, 1, 128),
    (1, 130, 2, 2, 5),
    (1, 300, 4, 2, 8),
    (1, 20, 1, 1, 256),
];

#[test]
fn attention_is_the_textbook_softmax() {
    for (b, t, h, k, d) in SHAPES {
        let heads = heads(h, k, d);
        check(
            &[activation("qkv", &[b, t, heads.packed()])],
            |x| composed(&x[0], heads, None),
            |tape, vars, _| attention(tape, &vars[0], heads, None, None),
        );
    }
}

#[test]
fn attention_with_dropout_is_the_softmax_times_the_mask() {
    for (b, t, h, k, d) in SHAPES {
        let heads = heads(h, k, d);
        let mask = Mask::new(5, 11, 3, 2, 0.25);
        let sequences: Vec<u32> = (0..b as u32).map(|i| 40 + 3 * i).collect();
        let factors = factors(&mask, &sequences, heads, t);
        check(
            &[activation("qkv", &[b, t, heads.packed()])],
            |x| composed(&x[0], heads, Some(&factors)),
            |tape, vars, _| {
                attention(tape, &vars[0], heads, Some(AttentionDropout { mask, sequences: &sequences }), None)
            },
        );
    }
}

/// Rows of 330 tokens in documents around every edge: one token, a block of queries and one more, more than a block of keys.
const LENGTHS: [&[usize]; 3] = [&[64, 1, 65, 200], &[1, 1, 270, 58], &[330]];

/// Where the document of each token begins.
fn begins(rows: &[&[usize]]) -> Vec<u32> {
    let row = |lengths: &&[usize]| {
        let starts = lengths.iter().scan(0, |next, len| Some(std::mem::replace(next, *next + len)));
        starts.zip(lengths.iter()).flat_map(|(start, &len)| vec![start as u32; len]).collect::<Vec<u32>>()
    };
    rows.iter().flat_map(row).collect()
}

#[test]
fn documents_have_the_bits_of_sequences_of_their_own() {
    for (h, k, d) in [(4, 2, 16), (3, 3, 5), (2, 1, 64)] {
        let heads = heads(h, k, d);
        let qkv = normal("documents", 3 * 330 * heads.packed());
        let begins = begins(&LENGTHS);
        let documents = Documents::new(&begins, 3, 330, Device::Cpu).unwrap();
        let [out, grad] = both(&qkv, &[3, 330, heads.packed()], heads, None, Some(&documents));
        let dout = normal("dout", out.len());
        let mut row = 0;
        for len in LENGTHS.concat() {
            let part = &qkv[row * heads.packed()..(row + len) * heads.packed()];
            let at = row * heads.width()..(row + len) * heads.width();
            let [alone, alone_grad] = both_with(part, &[1, len, heads.packed()], heads, None, None, &dout[at.clone()]);
            assert_eq!(out[at], alone, "{heads:?}, {len} tokens from row {row}");
            assert_eq!(grad[row * heads.packed()..(row + len) * heads.packed()], alone_grad, "{heads:?}, row {row}");
            row += len;
        }
    }
}

#[test]
fn documents_are_the_textbook_softmax_with_a_mask() {
    let heads = heads(4, 2, 8);
    let begins = begins(&LENGTHS);
    let documents = Documents::new(&begins, 3, 330, Device::Cpu).unwrap();
    let mask = Mask::new(5, 11, 3, 2, 0.25);
    let sequences = [40, 43, 46];
    // The mask's element is that of the whole row, wherever in it a document begins.
    let factors = factors(&mask, &sequences, heads, 330);
    let dropout = AttentionDropout { mask, sequences: &sequences };
    for (factors, dropout) in [(None, None), (Some(&factors[..]), Some(dropout))] {
        check(
            &[activation("qkv", &[3, 330, heads.packed()])],
            |x| composed_within(&x[0], heads, factors, Some(&begins)),
            |tape, vars, _| attention(tape, &vars[0], heads, dropout, Some(&documents)),
        );
    }
}

#[test]
fn sharp_softmaxes_are_as_good() {
    // Scores up to several hundred, growing with the key's place, so that the running maximum moves in every block.
    let heads = heads(2, 2, 8);
    let mut qkv = activation("qkv", &[1, 300, heads.packed()]);
    for (row, values) in qkv.values.chunks_exact_mut(heads.packed()).enumerate() {
        values[..heads.value(0)].iter_mut().for_each(|v| *v *= 1.0 + row as f32 / 30.0);
    }
    check(&[qkv], |x| composed(&x[0], heads, None), |tape, vars, _| attention(tape, &vars[0], heads, None, None));
}

#[test]
fn the_probability_of_dropping_is_right() {
    // All values one: an output is the kept probability times the scale, one on average. Equal scores make the standard
    // deviation of a row of n keys sqrt(p / (1 - p) / n), so the mean of these 2 * 4 * 400 rows is within 0.01 of one.
    let heads = heads(4, 4, 1);
    let (b, t) = (2, 400);
    let mut qkv = vec![0.0; b * t * heads.packed()];
    qkv.chunks_exact_mut(heads.packed()).for_each(|row| row[heads.value(0)..].fill(1.0));
    let qkv = Tensor::from_f32(&qkv, &[b, t, heads.packed()]).unwrap();
    let mask = Mask::new(1, 2, 3, 4, 0.1);
    let (out, _) = forward(&qkv, heads, Some(AttentionDropout { mask, sequences: &[0, 1] }), None).unwrap();
    let mean = out.f32().iter().map(|&o| f64::from(o)).sum::<f64>() / out.len() as f64;
    assert!((mean - 1.0).abs() < 0.01, "{mean}");
    let exact = out.f32().iter().filter(|&&o| (o - 1.0).abs() < 1e-6).count();
    assert!(exact < out.len() / 20, "{exact} of {} rows look as if nothing was dropped", out.len());
    // The two sequences have masks of their own.
    assert_ne!(out.f32()[..out.len() / 2], out.f32()[out.len() / 2..]);
}

#[test]
fn the_mask_does_not_depend_on_how_the_batch_is_cut() {
    let heads = heads(2, 1, 8);
    let (b, t) = (3, 70);
    let qkv = normal("cut", b * t * heads.packed());
    let row = t * heads.packed();
    let mask = Mask::new(1, 2, 3, 4, 0.3);
    let run = |range: std::ops::Range<usize>, sequences: &[u32]| {
        let part = &qkv[range.start * row..range.end * row];
        let part = Tensor::from_f32(part, &[range.len(), t, heads.packed()]).unwrap();
        forward(&part, heads, Some(AttentionDropout { mask, sequences }), None).unwrap().0.f32().to_vec()
    };
    assert_eq!(run(0..3, &[7, 8, 9]), [run(0..1, &[7]), run(1..3, &[8, 9])].concat());
}

#[test]
fn the_log_sum_exp_is_that_of_the_scores() {
    // The truth: sums in f64 over the same scores.
    let heads = heads(2, 1, 8);
    let (t, d) = (300, 8);
    let qkv = normal("lse", t * heads.packed());
    let (_, lse) = forward(&Tensor::from_f32(&qkv, &[1, t, heads.packed()]).unwrap(), heads, None, None).unwrap();
    for h in 0..2 {
        for q in 0..t {
            let row = |t: usize, first: usize| &qkv[t * heads.packed() + first..][..d];
            let score = |k: usize| {
                let pairs = row(q, heads.query(h)).iter().zip(row(k, heads.key(0)));
                pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() / (d as f64).sqrt()
            };
            let truth = (0..=q).map(|k| score(k).exp()).sum::<f64>().ln();
            assert!((f64::from(lse.f32()[h * t + q]) - truth).abs() < 2e-6 * truth.abs().max(1.0), "head {h}, {q}");
        }
    }
}

/// Everything a pass gives: the output and the gradient.
fn both(
    qkv: &[f32],
    shape: &[usize],
    heads: Heads,
    dropout: Option<AttentionDropout<'_>>,
    documents: Option<&Documents>,
) -> [Vec<f32>; 2] {
    let dout = normal("dout", shape[0] * shape[1] * heads.width());
    both_with(qkv, shape, heads, dropout, documents, &dout)
}

/// As [`both`], from a gradient of the output.
fn both_with(
    qkv: &[f32],
    shape: &[usize],
    heads: Heads,
    dropout: Option<AttentionDropout<'_>>,
    documents: Option<&Documents>,
    dout: &[f32],
) -> [Vec<f32>; 2] {
    let params = Params::zeros(Layout::default(), Device::Cpu).unwrap();
    let mut grads = Gradients::zeros_like(&params).unwrap();
    let mut scratch = Gradients::zeros_like(&params).unwrap();
    let mut tape = Tape::training(&params, &mut scratch);
    let x = tape.input(Tensor::from_f32(qkv, shape).unwrap());
    let out = attention(&mut tape, &x, heads, dropout, documents).unwrap();
    let values = out.value().f32().to_vec();
    let dout = Tensor::from_f32(dout, out.value().shape()).unwrap();
    let grad = tape.backward_from(&out, dout, &mut grads, &[&x], None).unwrap().remove(0).unwrap();
    [values, grad.f32().to_vec()]
}

#[test]
fn the_number_of_threads_does_not_change_the_bits() {
    let heads = heads(6, 2, 24);
    let shape = [2, 300, heads.packed()];
    let qkv = normal("threads", shape.iter().product());
    let mask = Mask::new(1, 2, 3, 4, 0.2);
    for dropout in [None, Some(AttentionDropout { mask, sequences: &[3, 4] })] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| both(&qkv, &shape, heads, dropout, None))
        };
        assert_eq!(run(1), run(3));
    }
}

#[test]
fn a_nan_or_infinity_reaches_the_rows_that_see_it() {
    let heads = heads(2, 1, 8);
    let (t, bad_row) = (200, 130);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for column in [heads.query(0), heads.key(0), heads.value(0)] {
            let mut qkv = normal("nan", t * heads.packed());
            qkv[bad_row * heads.packed() + column] = bad;
            let [out, grad] = both(&qkv, &[1, t, heads.packed()], heads, None, None);
            // Who sees it: its own row or later ones (a key of -inf may rightly get no weight in some of them). The first
            // block of queries does not.
            let later = &out[bad_row * heads.width()..];
            assert!(later.iter().any(|v| !v.is_finite()), "{bad} in column {column} is lost");
            assert!(out[..64 * heads.width()].iter().all(|v| v.is_finite()), "{bad} in {column} went back in time");
            assert!(grad.iter().any(|v| v.is_nan()), "{bad} in column {column} is lost in the gradient");
        }
    }
}

/// Runs a sequence through the cache, cut into parts of the given lengths.
fn cached(qkv: &[f32], b: usize, parts: &[usize], heads: Heads) -> Vec<f32> {
    let t: usize = parts.iter().sum();
    let cache = [b, heads.n_kv_head, t + 3, heads.head_dim];
    // NaN in the unused part of the cache: nobody may read it.
    let empty = || Tensor::from_f32(&vec![f32::NAN; cache.iter().product()], &cache).unwrap();
    let (mut keys, mut values) = (empty(), empty());
    let mut result = vec![0.0; b * t * heads.width()];
    let mut past = 0;
    for &part in parts {
        let rows: Vec<f32> = (0..b)
            .flat_map(|b| &qkv[(b * t + past) * heads.packed()..(b * t + past + part) * heads.packed()])
            .copied()
            .collect();
        let rows = Tensor::from_f32(&rows, &[b, part, heads.packed()]).unwrap();
        let mut out = Tensor::empty(Device::Cpu, TensorType::F32, &[b, part, heads.width()]).unwrap();
        forward_cached(&mut out, &rows, &mut keys, &mut values, heads, (0, past)).unwrap();
        let width = part * heads.width();
        for b in 0..b {
            result[(b * t + past) * heads.width()..][..width].copy_from_slice(&out.f32()[b * width..][..width]);
        }
        past += part;
    }
    result
}

#[test]
fn cached_attention_is_attention() {
    for (h, k, d) in [(3, 3, 5), (4, 2, 64), (6, 1, 16)] {
        let heads = heads(h, k, d);
        let ones = [1; 290];
        let cuts: [&[usize]; 5] = [&[290], &ones, &[70, 1, 1, 218], &[1, 289], &[254, 36]];
        let qkv = normal("cached", 2 * 290 * heads.packed());
        let (whole, _) =
            forward(&Tensor::from_f32(&qkv, &[2, 290, heads.packed()]).unwrap(), heads, None, None).unwrap();
        for parts in cuts {
            let found = cached(&qkv, 2, parts, heads);
            let far = found.iter().zip(whole.f32()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.iter().all(|v| v.is_finite()) && far < 2e-6, "cut {parts:?}: {far}");
        }
    }
}

#[test]
fn large_caches_use_threads_and_give_the_same() {
    // 3 sequences * 4 heads * 400 positions * 32: enough for the parallel way. One sequence at a time is not.
    let heads = heads(4, 4, 32);
    let qkv = normal("large", 3 * 400 * heads.packed());
    let parts = [399, 1];
    let together = cached(&qkv, 3, &parts, heads);
    let row = 400 * heads.packed();
    let apart: Vec<f32> = (0..3).flat_map(|b| cached(&qkv[b * row..(b + 1) * row], 1, &parts, heads)).collect();
    assert_eq!(together, apart);
}

#[test]
fn a_full_cache_says_so() {
    let heads = heads(1, 1, 2);
    let mut keys = Tensor::zeros(Device::Cpu, TensorType::F32, &[1, 1, 4, 2]).unwrap();
    let mut values = keys.clone().into_sole().unwrap();
    let qkv = Tensor::zeros(Device::Cpu, TensorType::F32, &[1, 2, 6]).unwrap();
    let mut out = Tensor::zeros(Device::Cpu, TensorType::F32, &[1, 2, 2]).unwrap();
    forward_cached(&mut out, &qkv, &mut keys, &mut values, heads, (0, 2)).unwrap();
    let error = forward_cached(&mut out, &qkv, &mut keys, &mut values, heads, (0, 3)).unwrap_err();
    assert!(error.to_string().contains("holds 4 positions, but 5 are needed"), "{error}");
}

#[test]
fn nothing_in_nothing_out() {
    let heads = heads(2, 1, 8);
    let qkv = Tensor::from_f32(&[], &[0, 5, heads.packed()]).unwrap();
    assert_eq!(forward(&qkv, heads, None, None).unwrap().0.shape(), [0, 5, 16]);
    // The oracle's own dtype is not lost on the way: a guard for the tests above.
    let x = CTensor::zeros((1, 2, heads.packed()), DType::F64, &CandleDevice::Cpu).unwrap();
    assert_eq!(composed(&x, heads, None).unwrap().dtype(), DType::F64);
}
