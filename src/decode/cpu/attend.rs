//! Attention over the cache: one task for some tokens of a sequence and one key-value head.
//!
//! Per query, whatever is computed at the same time: scores against all keys (each a sum over the head's elements in
//! order), the largest, exponentials, their sum over sixteen lanes, and the values weighted by them, summed token after
//! token.

use half::{bf16, f16};

use super::cache::{SlotCache, softmax};
use super::kernels::{Element, FloatJob, Isa, floats};
use super::vector::LANES;
use crate::decode::CacheFormat;
use crate::ops::heads::Heads;
use crate::ops::simd;

/// Tokens of one task.
pub const TOGETHER: usize = 8;

/// Consecutive tokens of one sequence: rows of the batch, and how many tokens stand before the first.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    pub slot: usize,
    pub first_row: usize,
    pub rows: usize,
    pub past: usize,
}

/// Queries `q` (rows `q_stride` apart, as many as `seen`, which counts the tokens each may see) against one head of a layer,
/// results to rows of `out`. `scores` has room for all rows of all tokens.
struct Queries<'a> {
    q: *const f32,
    q_stride: usize,
    rows: usize,
    /// Tokens that the first query sees, and how many more each next one does.
    seen: usize,
    step: usize,
    out: *mut f32,
    out_stride: usize,
    scores: &'a mut [f32],
}

/// Attention of a tile's queries of all heads that share key-value head `kv`. `qkv` has packed rows, `out` rows of H * D.
///
/// # Safety
/// The machine has `isa`; `out` has the tile's rows, and nobody else uses these heads' columns of them.
pub unsafe fn attend(
    isa: Isa,
    tile: Tile,
    heads: Heads,
    (layer, kv): (usize, usize),
    cache: &SlotCache,
    format: CacheFormat,
    qkv: &[f32],
    out: *mut f32,
    scores: &mut [f32],
) {
    let (d, packed, width, group) = (heads.head_dim, heads.packed(), heads.width(), heads.group());
    let first = &qkv[tile.first_row * packed..][..tile.rows * packed];
    let head = kv * group;
    // SAFETY: `out` has rows of `width` elements for all rows of the tile, the first of which is `first_row`, by the caller.
    let to = unsafe { out.add(tile.first_row * width) };
    let mut run = |q: usize, q_stride: usize, rows: usize, step: usize, o: usize, out_stride: usize| {
        // SAFETY: `o` is the first column of a head, at most `width - d`, of the tile's first row of `out`, which has `width`.
        let (q, out) = unsafe { (first[q..].as_ptr(), to.add(o)) };
        let queries = Queries { q, q_stride, rows, seen: tile.past + 1, step, out, out_stride, scores };
        // SAFETY: the machine has `isa`, and the queries' rows of `out` in these heads' columns are this call's alone: both are the
        // promise of this function's own caller. The element is the format's.
        unsafe {
            match format {
                CacheFormat::Fp32 => one_head::<f32>(isa, queries, cache, layer, kv, d),
                CacheFormat::Bf16 => one_head::<bf16>(isa, queries, cache, layer, kv, d),
                CacheFormat::Fp16 => one_head::<f16>(isa, queries, cache, layer, kv, d),
                CacheFormat::Int8 => one_head::<i8>(isa, queries, cache, layer, kv, d),
            }
        }
    };
    if tile.rows == 1 {
        // The heads of a group read the same keys: together, up to TOGETHER of them.
        for some in (0..group).step_by(TOGETHER) {
            let rows = TOGETHER.min(group - some);
            run(heads.query(head + some), d, rows, 0, (head + some) * d, d);
        }
    } else {
        for head in head..head + group {
            run(heads.query(head), packed, tile.rows, 1, head * d, width);
        }
    }
}

/// # Safety
/// As [`attend`].
unsafe fn one_head<E: Element + bytemuck::Pod>(
    isa: Isa,
    queries: Queries<'_>,
    cache: &SlotCache,
    layer: usize,
    kv: usize,
    d: usize,
) {
    // SAFETY: `Step::attention` writes the tokens of the layer in a run of the pool that ends before the run in which this is
    // called begins; nothing else writes.
    let head = unsafe { cache.head::<E>(layer, kv) };
    let all = queries.seen + (queries.rows - 1) * queries.step;
    let panels = all.div_ceil(LANES);
    let stride = panels * LANES;
    let scores = &mut queries.scores[..queries.rows * stride];
    let keys = FloatJob {
        x: queries.q,
        x_stride: queries.q_stride,
        rows: queries.rows,
        w: head.keys[..stride * d].as_ptr(),
        w_stride: d * LANES,
        k: d,
        out: scores.as_mut_ptr(),
        out_stride: stride,
        n: stride,
    };
    // SAFETY: `rows` queries of `d` elements are there by the caller; the slices above have panels of `stride * d` keys and rows of
    // `stride` scores, which are this task's; the machine has `isa` by the caller.
    unsafe { floats(isa, &keys, 0, panels) };
    let scale = 1.0 / (d as f32).sqrt();
    let mut inverse = [0.0; TOGETHER];
    for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
        let seen = queries.seen + row * queries.step;
        let (key_scales, value_scales) = match head.key_scales.is_empty() {
            true => (&[][..], &[][..]),
            false => (&head.key_scales[..seen], &head.value_scales[..seen]),
        };
        inverse[row] = probabilities(scores, seen, scale, key_scales, value_scales);
    }
    let values = FloatJob {
        x: scores.as_ptr(),
        x_stride: stride,
        rows: queries.rows,
        w: head.values.as_ptr(),
        w_stride: head.values.len() / d.div_ceil(LANES),
        k: all,
        out: queries.out,
        out_stride: queries.out_stride,
        n: d,
    };
    // SAFETY: `rows` rows of `all` probabilities were just made; the values' panels have `w_stride` elements each, for `tokens >= all`
    // tokens; `rows` rows of `d` elements of `out` are this task's alone by the caller.
    unsafe {
        floats(isa, &values, 0, d.div_ceil(LANES));
        for (row, inverse) in inverse[..queries.rows].iter().enumerate() {
            let out = std::slice::from_raw_parts_mut(queries.out.add(row * queries.out_stride), d);
            out.iter_mut().for_each(|out| *out *= inverse);
        }
    }
}

simd! {
    fn probabilities(row: &mut [f32], n: usize, scale: f32, key_scales: &[f32], value_scales: &[f32]) -> f32 {
        softmax(row, n, scale, key_scales, value_scales)
    }
}
