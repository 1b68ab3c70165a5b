//! Attention over cached keys and values, for generating text.
//!
//! A prompt goes through the blocks of the forward pass. A single token has one query for each head, so its scores are dot
//! products and its result is a weighted sum of rows: there the reading of the cache is the work, and no matrix product
//! would help.

use rayon::prelude::*;

use super::forward::{Head, Scratch, Strided};
use super::{Extent, QUERIES};
use crate::math;
use crate::ops::element::Element;
use crate::ops::{lanes, simd};
use crate::parallel::Parts;

/// Below so many elements of the cache to read, one thread is faster than waking others.
const WORTH_THREADS: usize = 1 << 17;

/// Appends the keys and values of `qkv` [B, T, (H + 2K) * D] to the caches [B, K, C, D] at positions `past..past + T`,
/// and writes to `out` [B, T, H * D] what query `t` takes from the positions `0..=past + t`.
pub fn forward_cached<E: Element>(
    out: &mut [E],
    qkv: &[E],
    keys: &mut [E],
    values: &mut [E],
    extent: Extent<'_>,
    capacity: usize,
    past: usize,
) {
    let Extent { b, t, heads, .. } = extent;
    let d = heads.head_dim;
    for (slot, (keys, values)) in
        keys.chunks_exact_mut(capacity * d).zip(values.chunks_exact_mut(capacity * d)).enumerate()
    {
        let (b, kv) = (slot / heads.n_kv_head, slot % heads.n_kv_head);
        for row in 0..t {
            let (from, to) = (extent.packed_row(b, row), (past + row) * d..(past + row + 1) * d);
            keys[to.clone()].copy_from_slice(&qkv[from + heads.key(kv)..][..d]);
            values[to].copy_from_slice(&qkv[from + heads.value(kv)..][..d]);
        }
    }
    let slot = |b: usize, h: usize| (b * heads.n_kv_head + heads.kv_of(h)) * capacity * d;
    if t == 1 {
        let one = |(scores, sums): &mut (Vec<f32>, Vec<f32>), (task, out): (usize, &mut [E])| {
            let (b, h) = (task / heads.n_head, task % heads.n_head);
            let cached = slot(b, h)..slot(b, h) + (past + 1) * d;
            let q = &qkv[extent.packed_row(b, 0) + heads.query(h)..][..d];
            scores.resize(past + 1, 0.0);
            sums.resize(d, 0.0);
            attend_one(out, q, &keys[cached.clone()], &values[cached], (scores, sums), extent.scale());
        };
        if b * heads.n_head * (past + 1) * d < WORTH_THREADS {
            let mut scratch = Default::default();
            out.chunks_exact_mut(d).enumerate().for_each(|task| one(&mut scratch, task));
        } else {
            out.par_chunks_exact_mut(d).enumerate().for_each_init(Default::default, one);
        }
        return;
    }
    let blocks = t.div_ceil(QUERIES);
    let out = Parts::new(out);
    (0..b * heads.n_head * blocks).into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        let (b, h, block) = (task / blocks / heads.n_head, task / blocks % heads.n_head, task % blocks);
        let rows = block * QUERIES..t.min((block + 1) * QUERIES);
        let head = Head {
            queries: Strided { data: &qkv[extent.packed_row(b, 0) + heads.query(h)..], stride: heads.packed() },
            keys: Strided { data: &keys[slot(b, h)..], stride: d },
            values: Strided { data: &values[slot(b, h)..], stride: d },
            d,
            past,
            scale: extent.scale(),
            mask: None,
        };
        scratch.attend(&head, rows.clone());
        for (i, row) in rows.enumerate() {
            // SAFETY: a task is one (b, h, block): the head's `d` columns of the block's rows are no other task's, and the slice of
            // one row is gone before the next one's.
            scratch.finish(unsafe { out.part((b * t + row) * heads.width() + h * d, d) }, i);
        }
    });
}

simd! {
    /// One query `q` [D] over all of `keys` and `values` [N, D]; scores [N] and sums [D] are scratch.
    fn attend_one<E: Element>(
        out: &mut [E],
        q: &[E],
        keys: &[E],
        values: &[E],
        scratch: (&mut [f32], &mut [f32]),
        scale: f32,
    ) {
        let ((scores, sums), d) = (scratch, q.len());
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(d)) {
            *score = lanes::sum2(q, key, |q, k| q * k) * scale;
        }
        let max = lanes::max(scores);
        scores.iter_mut().for_each(|score| *score = math::exp(*score - max));
        let inverse = 1.0 / lanes::sum(scores, |p| p);
        sums.fill(0.0);
        // Four rows of values at a time: a quarter of the reads and writes of the sums.
        let (fours, rest) = scores.split_at(scores.len() / 4 * 4);
        let (value_fours, value_rest) = values.split_at(fours.len() * d);
        for (p, v) in fours.chunks_exact(4).zip(value_fours.chunks_exact(4 * d)) {
            let (v0, v) = v.split_at(d);
            let (v1, v) = v.split_at(d);
            let (v2, v3) = v.split_at(d);
            for ((((sum, v0), v1), v2), v3) in sums.iter_mut().zip(v0).zip(v1).zip(v2).zip(v3) {
                *sum += (p[0] * v0.load() + p[1] * v1.load()) + (p[2] * v2.load() + p[3] * v3.load());
            }
        }
        for (p, v) in rest.iter().zip(value_rest.chunks_exact(d)) {
            for (sum, v) in sums.iter_mut().zip(v) {
                *sum += p * v.load();
            }
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = E::store(*sum * inverse));
    }
}
