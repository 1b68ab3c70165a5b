//! Every operator, over awkward shapes: one row, widths that are no multiple of a pack, odd vocabularies, T next to the
//! tile, several heads and sequences, NaN.

use taper::device::DType;
use taper::ops;
use taper::ops::attention::{AttentionDropout, Heads};
use taper::ops::classifier::{IGNORE, Scale};
use taper::ops::documents::Documents;
use taper::ops::gelu::Kind;
use taper::ops::rope::RopeTable;
use taper::random::Mask;
use taper::tensor::Tensor;

use super::compare::{activation, check, param};

const ALL: &[DType] = &[DType::F32, DType::BF16, DType::F16];
const HALF: &[DType] = &[DType::BF16, DType::F16];

#[test]
fn layernorm() {
    for (rows, width) in [(1, 8), (3, 64), (130, 40), (5, 33), (2, 768)] {
        let inputs = [activation("x", &[rows, width]), param("w", &[width]), param("b", &[width])];
        check(&format!("layernorm {rows} x {width}"), &inputs, ALL, 4.0, &|tape, v, p| {
            ops::layernorm::layernorm(tape, &v[0], p[0], Some(p[1]), 1e-5)
        });
        check(&format!("layernorm without bias {rows} x {width}"), &inputs[..2], ALL, 4.0, &|tape, v, p| {
            ops::layernorm::layernorm(tape, &v[0], p[0], None, 1e-5)
        });
    }
}

#[test]
fn rmsnorm() {
    for (rows, width) in [(1, 8), (3, 64), (130, 40), (5, 33)] {
        let inputs = [activation("x", &[rows, width]), param("w", &[width])];
        check(&format!("rmsnorm {rows} x {width}"), &inputs, ALL, 4.0, &|tape, v, p| {
            ops::rmsnorm::rmsnorm(tape, &v[0], p[0], 1e-5)
        });
    }
}

/// The gradient that has come back along the residual stream is added inside the norm's backward.
#[test]
fn norms_beside_a_residual() {
    let inputs = [activation("x", &[70, 24]), param("w", &[24]), param("b", &[24])];
    check("layernorm next to a residual", &inputs, ALL, 6.0, &|tape, v, p| {
        let y = ops::layernorm::layernorm(tape, &v[0], p[0], Some(p[1]), 1e-5)?;
        ops::residual::residual(tape, &v[0], y)
    });
    check("rmsnorm next to a residual", &inputs[..2], ALL, 6.0, &|tape, v, p| {
        let y = ops::rmsnorm::rmsnorm(tape, &v[0], p[0], 1e-5)?;
        ops::residual::residual(tape, &v[0], y)
    });
}

/// The sum made inside the norm; both results continue.
#[test]
fn norms_of_a_sum() {
    for (rows, width) in [(1, 8), (70, 24), (5, 33)] {
        let shape = [rows, width];
        let inputs = [activation("x", &shape), activation("delta", &shape), param("w", &[width]), param("b", &[width])];
        check(&format!("layernorm of a sum {rows} x {width}"), &inputs, ALL, 6.0, &|tape, v, p| {
            let [sum, y] = ops::layernorm::add_layernorm(tape, &v[0], v[1].clone(), p[0], Some(p[1]), 1e-5)?;
            ops::residual::residual(tape, &sum, y)
        });
        check(&format!("rmsnorm of a sum {rows} x {width}"), &inputs[..3], ALL, 6.0, &|tape, v, p| {
            let [sum, y] = ops::rmsnorm::add_rmsnorm(tape, &v[0], v[1].clone(), p[0], 1e-5)?;
            ops::residual::residual(tape, &sum, y)
        });
        check(
            &format!("rmsnorm of a sum whose own value is not used {rows} x {width}"),
            &inputs[..3],
            ALL,
            6.0,
            &|t, v, p| Ok(ops::rmsnorm::add_rmsnorm(t, &v[0], v[1].clone(), p[0], 1e-5)?[1].clone()),
        );
    }
}

#[test]
fn activations() {
    for (rows, width) in [(1, 2), (3, 66), (40, 128)] {
        let inputs = [activation("x", &[rows, width])];
        for kind in [Kind::Tanh, Kind::Erf] {
            check(&format!("gelu {kind:?} {rows} x {width}"), &inputs, ALL, 4.0, &|tape, v, _| {
                ops::gelu::gelu(tape, &v[0], kind)
            });
        }
        check(&format!("relu2 {rows} x {width}"), &inputs, ALL, 4.0, &|tape, v, _| ops::relu2::relu2(tape, &v[0]));
        check(&format!("swiglu {rows} x {width}"), &inputs, ALL, 4.0, &|tape, v, _| ops::swiglu::swiglu(tape, &v[0]));
    }
}

/// A NaN comes out where the CPU lets it out.
#[test]
fn nan_is_not_lost() {
    let mut x = activation("x", &[4, 40]);
    x.values[45] = f32::NAN;
    x.values[90] = f32::INFINITY;
    let inputs = [x, param("w", &[40]), param("b", &[40])];
    check("relu2 of NaN", &inputs[..1], ALL, 4.0, &|tape, v, _| ops::relu2::relu2(tape, &v[0]));
    check("gelu of NaN", &inputs[..1], ALL, 4.0, &|tape, v, _| ops::gelu::gelu(tape, &v[0], Kind::Tanh));
    check("layernorm of NaN", &inputs, ALL, 4.0, &|tape, v, p| {
        ops::layernorm::layernorm(tape, &v[0], p[0], Some(p[1]), 1e-5)
    });
}

#[test]
fn residual_and_dropout() {
    let inputs = [activation("x", &[2, 3, 20]), activation("y", &[2, 3, 20])];
    check("residual", &inputs, ALL, 2.0, &|tape, v, _| ops::residual::residual(tape, &v[0], v[1].clone()));
    let mask = Mask::new(1, 4, 3, 2, 0.3);
    check("dropout", &inputs[..1], ALL, 2.0, &|tape, v, _| ops::dropout::dropout(tape, v[0].clone(), mask, &[5, 9]));
    check("a shared input of dropout", &inputs[..1], ALL, 2.0, &|tape, v, _| {
        let dropped = ops::dropout::dropout(tape, v[0].clone(), mask, &[5, 9])?;
        ops::residual::residual(tape, &v[0], dropped)
    });
}

#[test]
fn linear() {
    for (rows, ins, outs) in [(1, 8, 8), (7, 24, 40), (300, 33, 5)] {
        let inputs = [activation("x", &[rows, ins]), param("w", &[outs, ins]), param("b", &[outs])];
        check(&format!("linear {rows} x {ins} to {outs}"), &inputs, ALL, 16.0, &|tape, v, p| {
            ops::linear::linear(tape, &v[0], p[0], Some(p[1]))
        });
    }
}

#[test]
fn rope() {
    let heads = Heads { n_head: 3, n_kv_head: 1, head_dim: 12 };
    let table = RopeTable::new(9, 12, 10_000.0).unwrap();
    let inputs = [activation("qkv", &[2, 7, heads.packed()])];
    check("rope", &inputs, ALL, 4.0, &|tape, v, _| ops::rope::rope(tape, v[0].clone(), heads, &table, 2, None));
}

#[test]
fn embedding() {
    // Token 3 stands so often that its gradient is made of several segments.
    let tokens: Vec<u32> = (0..2 * 90).map(|i| if i % 2 == 0 { 3 } else { i % 11 }).collect();
    let tokens = Tensor::from_u32(&tokens, &[2, 90]).unwrap();
    for width in [8, 20, 33] {
        let inputs = [param("wte", &[11, width]), param("wpe", &[95, width])];
        check(&format!("embedding of width {width}"), &inputs, ALL, 4.0, &|tape, _, p| {
            ops::embedding::embedding(tape, &tokens, p[0], Some(p[1]), 5, None)
        });
        check(&format!("embedding without positions, width {width}"), &inputs[..1], ALL, 4.0, &|tape, _, p| {
            ops::embedding::embedding(tape, &tokens, p[0], None, 0, None)
        });
    }
}

#[test]
fn classifier() {
    for (rows, width, vocabulary) in [(1, 8, 16), (5, 16, 37), (40, 8, 1003)] {
        let targets: Vec<u32> =
            (0..rows).map(|i| if i % 4 == 3 { IGNORE } else { (i * 7 % vocabulary) as u32 }).collect();
        let inputs = [activation("x", &[rows, width]), param("w", &[vocabulary, width])];
        check(&format!("classifier {rows} x {width}, {vocabulary} words"), &inputs, ALL, 16.0, &|tape, v, p| {
            let scale = Scale { by: 0.25, loss_scale: None };
            // Its losses are f32 in every precision, and its backward reads no gradient.
            Ok(ops::classifier::classifier(tape, &v[0], p[0], &targets, scale)?.root)
        });
        let weights: Vec<f32> = (0..rows).map(|i| [1.0, 0.0, -0.5, 2.5, 0.75][i % 5]).collect();
        check(&format!("classifier with weights {rows} x {width}"), &inputs, ALL, 16.0, &|tape, v, p| {
            let scale = Scale { by: 0.25, loss_scale: None };
            Ok(ops::classifier::classifier_weighted(tape, &v[0], p[0], &targets, &weights, scale)?.root)
        });
    }
}

/// Documents of a row of `t` tokens: their lengths in turn, the last one cut.
fn documents(lengths: &[usize], b: usize, t: usize) -> Vec<u32> {
    let starts = lengths.iter().cycle().scan(0, |next, len| Some(std::mem::replace(next, *next + len)));
    let row: Vec<u32> =
        starts.zip(lengths.iter().cycle()).flat_map(|(start, &len)| vec![start as u32; len]).take(t).collect();
    row.repeat(b)
}

/// Attention within documents of these lengths.
fn attend_within(lengths: &[usize], heads: Heads, (b, t): (usize, usize), dropout: bool, dtypes: &[DType]) {
    let begins = documents(lengths, b, t);
    let sequences: Vec<u32> = (0..b as u32).map(|i| 3 * i + 1).collect();
    let dropout = dropout.then(|| AttentionDropout { mask: Mask::new(1, 2, 1, 1, 0.25), sequences: &sequences });
    for &dtype in dtypes {
        let factor = if dtype == DType::F32 { 64.0 } else { 16.0 };
        let what = format!("attention within documents of {lengths:?}, {heads:?}, B = {b}, T = {t}");
        let inputs = [activation("qkv", &[b, t, heads.packed()])];
        check(&what, &inputs, &[dtype], factor, &|tape, v, _| {
            let documents = Documents::new(&begins, b, t, v[0].value().device())?;
            ops::attention::attention(tape, &v[0], heads, dropout, Some(&documents))
        });
    }
}

#[test]
fn positions_start_again_in_each_document() {
    let (b, t) = (2, 150);
    let begins = documents(&[1, 70, 5], b, t);
    let heads = Heads { n_head: 2, n_kv_head: 1, head_dim: 16 };
    let table = RopeTable::new(t, 16, 100.0).unwrap();
    let inputs = [activation("qkv", &[b, t, heads.packed()])];
    check("rope within documents", &inputs, ALL, 4.0, &|tape, v, _| {
        let documents = Documents::new(&begins, b, t, v[0].value().device())?;
        ops::rope::rope(tape, v[0].clone(), heads, &table, 0, Some(&documents))
    });
    let ids: Vec<u32> = (0..(b * t) as u32).map(|i| i * i % 9).collect();
    let inputs = [param("wte", &[9, 24]), param("wpe", &[t, 24])];
    check("embedding within documents", &inputs, ALL, 4.0, &|tape, _, p| {
        let device = tape.params().flat().device();
        let documents = Documents::new(&begins, b, t, device)?;
        let tokens = Tensor::from_u32(&ids, &[b, t])?;
        ops::embedding::embedding(tape, &tokens, p[0], Some(p[1]), 0, Some(&documents))
    });
    let inputs = [activation("x", &[40, 24]), activation("y", &[40, 48]), param("a", &[8, 24]), param("b", &[16, 8])];
    check("low rank", &inputs, ALL, 16.0, &|tape, v, p| {
        ops::low_rank::low_rank(tape, v[1].clone(), &v[0], (p[0], p[1]), 16, 1.5)
    });
}

#[test]
fn attention_within_documents() {
    let heads = |n_head, n_kv_head, head_dim| Heads { n_head, n_kv_head, head_dim };
    // One token, less than a tile, whole tiles, several blocks.
    for lengths in [&[1][..], &[64, 128, 1, 7], &[129, 71]] {
        attend_within(lengths, heads(2, 1, 64), (1, 200), false, &[DType::BF16]);
    }
    attend_within(&[5, 60], heads(1, 1, 64), (2, 150), false, &[DType::F16]);
    attend_within(&[33, 50], heads(2, 1, 128), (1, 140), false, &[DType::BF16]);
    attend_within(&[10, 25], heads(2, 1, 64), (2, 70), true, &[DType::BF16]);
    attend_within(&[33, 40, 1], heads(2, 1, 20), (2, 100), true, &[DType::F32]);
    attend_within(&[70, 9], heads(1, 1, 64), (1, 140), false, &[DType::F32]);
}

fn attend(what: &str, heads: Heads, (b, t): (usize, usize), dropout: bool, dtypes: &[DType]) {
    let inputs = [activation("qkv", &[b, t, heads.packed()])];
    let sequences: Vec<u32> = (0..b as u32).map(|i| 3 * i + 1).collect();
    let dropout = dropout.then(|| AttentionDropout { mask: Mask::new(1, 2, 1, 1, 0.25), sequences: &sequences });
    for &dtype in dtypes {
        // In f32 both sides round every one of T * D terms; in the narrow types it is the inputs of products that count.
        let factor = if dtype == DType::F32 { 64.0 } else { 16.0 };
        let what = format!("{what} attention, {heads:?}, B = {b}, T = {t}");
        check(&what, &inputs, &[dtype], factor, &|tape, v, _| {
            ops::attention::attention(tape, &v[0], heads, dropout, None)
        });
    }
}

#[test]
fn fast_attention() {
    let heads = |n_head, n_kv_head, head_dim| Heads { n_head, n_kv_head, head_dim };
    for t in [1, 2, 17, 63, 64, 65, 129, 200] {
        attend("fast", heads(2, 2, 64), (1, t), false, HALF);
    }
    attend("fast grouped", heads(4, 2, 64), (2, 70), false, HALF);
    attend("fast", heads(2, 1, 128), (1, 97), false, HALF);
    attend("fast with dropout", heads(2, 1, 64), (2, 90), true, HALF);
    attend("fast with dropout", heads(1, 1, 128), (1, 66), true, HALF);
}

#[test]
fn slow_attention() {
    let heads = |n_head, n_kv_head, head_dim| Heads { n_head, n_kv_head, head_dim };
    for t in [1, 33, 64, 70] {
        attend("slow", heads(2, 2, 16), (1, t), false, ALL);
    }
    attend("slow grouped", heads(4, 2, 20), (2, 35), true, ALL);
    attend("slow", heads(1, 1, 64), (1, 66), false, &[DType::F32]);
    attend("slow", heads(1, 1, 256), (1, 40), false, ALL);
    attend("slow", heads(2, 1, 5), (1, 9), false, ALL);
}
