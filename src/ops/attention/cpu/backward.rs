//! The backward pass: probabilities again from the scores and their log-sum-exp, one task for each key-value head.
//!
//! With `P = exp(S - lse)` and `delta = rowsum(dO * O)`: `dV = P^T dO`, `dS = P * (dO V^T - delta)`, `dQ = scale dS K`,
//! `dK = scale dS^T Q`. With dropout factors `F`, `P * F` stands for `P` in `dV` and `F * (dO V^T)` for `dO V^T`; the row
//! sum stays what it is, because O holds the factors already.

use rayon::prelude::*;

use super::forward::{Block, Strided};
use super::{Extent, HeadMask, KEYS, QUERIES, operand};
use crate::math;
use crate::ops::attention::AttentionDropout;
use crate::ops::documents::Segment;
use crate::ops::element::{Element, narrow_block};
use crate::ops::matmul::{Into, MatMut, Threads, gemm};
use crate::ops::{lanes, simd};
use crate::parallel::Parts;
use crate::tensor::element::convert_slice;

/// `dqkv` [B, T, (H + 2K) * D] from `dout` and `out` [B, T, H * D] and what the forward pass saved. One task owns a
/// key-value head of a segment and its group of query heads, and goes through them in order: no sum depends on the threads.
pub fn backward<E: Element>(
    dqkv: &mut [E],
    dout: &[E],
    qkv: &[E],
    out: &[E],
    lse: &[f32],
    extent: Extent<'_>,
    dropout: Option<AttentionDropout<'_>>,
) {
    let Extent { t, heads, .. } = extent;
    let (d, packed, width) = (heads.head_dim, heads.packed(), heads.width());
    let dqkv = Parts::new(dqkv);
    let segments = extent.segments();
    (0..segments.len() * heads.n_kv_head).into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        let (segment, kv) = (segments[task / heads.n_kv_head], task % heads.n_kv_head);
        let Segment { b, first: start, len } = segment;
        // Writes a head's rows where they belong.
        let write = |rows: &[f32], first: usize| {
            for (row, values) in rows.chunks_exact(d).enumerate() {
                // SAFETY: a task is one segment and one head of keys with the queries that share it: its rows, or its columns of them,
                // are no other task's, and the slice of one row is gone before the next one's.
                convert_slice(unsafe { dqkv.part(extent.packed_row(b, start + row) + first, d) }, values);
            }
        };
        let sequence = &qkv[extent.packed_row(b, start)..];
        let first_row = (b * t + start) * width;
        scratch.start(len * d, len);
        for h in kv * heads.group()..(kv + 1) * heads.group() {
            let head = Head {
                queries: Strided { data: &sequence[heads.query(h)..], stride: packed },
                keys: Strided { data: &sequence[heads.key(kv)..], stride: packed },
                values: Strided { data: &sequence[heads.value(kv)..], stride: packed },
                out: Strided { data: &out[first_row + h * d..], stride: width },
                dout: Strided { data: &dout[first_row + h * d..], stride: width },
                lse: &lse[(b * heads.n_head + h) * t + start..][..len],
                d,
                scale: extent.scale(),
                mask: HeadMask::new(dropout, segment, t, h),
            };
            scratch.head(&head);
            write(&scratch.dq, heads.query(h));
        }
        write(&scratch.dk, heads.key(kv));
        write(&scratch.dv, heads.value(kv));
    });
}

/// One query head of one sequence.
struct Head<'a, E> {
    queries: Strided<'a, E>,
    keys: Strided<'a, E>,
    values: Strided<'a, E>,
    out: Strided<'a, E>,
    dout: Strided<'a, E>,
    lse: &'a [f32],
    d: usize,
    scale: f32,
    mask: Option<HeadMask>,
}

/// What a task works in: reused from block to block and from head to head.
#[derive(Default)]
struct Scratch {
    /// Scores, then probabilities, of a block; in the end rounded in place to operands of products, as `ds` is.
    p: Vec<f32>,
    /// Gradients of probabilities, then of scores, of a block.
    ds: Vec<f32>,
    /// Dropout factors of a row.
    factors: Vec<f32>,
    /// `rowsum(dO * O)` of a head.
    delta: Vec<f32>,
    /// Gradients of a query head, [T, D].
    dq: Vec<f32>,
    /// Gradients of the key head, [T, D].
    dk: Vec<f32>,
    /// Gradients of the value head, [T, D].
    dv: Vec<f32>,
}

impl Scratch {
    fn start(&mut self, head: usize, t: usize) {
        self.p.resize(QUERIES * KEYS, 0.0);
        self.ds.resize(QUERIES * KEYS, 0.0);
        self.factors.resize(KEYS, 0.0);
        self.delta.resize(t, 0.0);
        for sums in [&mut self.dk, &mut self.dv] {
            sums.clear();
            sums.resize(head, 0.0);
        }
        self.dq.resize(head, 0.0);
    }

    /// Sets `dq`, and adds to `dk` and `dv`.
    fn head<E: Element>(&mut self, head: &Head<'_, E>) {
        let (d, t) = (head.d, head.lse.len());
        self.dq.fill(0.0);
        for (row, delta) in self.delta.iter_mut().enumerate() {
            *delta = dot(head.dout.row(row, d), head.out.row(row, d));
        }
        for first_query in (0..t).step_by(QUERIES) {
            let rows = first_query..t.min(first_query + QUERIES);
            let (q, dout) = (head.queries.rows(rows.clone(), d), head.dout.rows(rows.clone(), d));
            let n = rows.len();
            for first_key in (0..rows.end).step_by(KEYS) {
                let keys = first_key..rows.end.min(first_key + KEYS);
                let width = keys.len();
                let (k, v) = (head.keys.rows(keys.clone(), d), head.values.rows(keys, d));
                let (p, ds) = (&mut self.p[..n * KEYS], &mut self.ds[..n * KEYS]);
                gemm(MatMut::strided(p, n, width, KEYS), Into::Set, head.scale, q, k.t(), Threads::One);
                gemm(MatMut::strided(ds, n, width, KEYS), Into::Set, 1.0, dout, v.t(), Threads::One);
                let block = Block { width, first_valid: (rows.start + 1) as isize - first_key as isize };
                let (lse, delta) = (&head.lse[rows.clone()], &self.delta[rows.clone()]);
                match &head.mask {
                    None => scores_back(p, ds, lse, delta, block),
                    Some(mask) => {
                        let factors = &mut self.factors;
                        scores_back_dropped(p, ds, lse, delta, block, factors, mask, rows.start, first_key);
                    }
                }
                narrow_block::<E>(p, width, KEYS);
                narrow_block::<E>(ds, width, KEYS);
                let (p, ds) = (operand(p, n, width), operand(ds, n, width));
                let part = first_key * d..(first_key + width) * d;
                let (dk, dv) = (&mut self.dk[part.clone()], &mut self.dv[part]);
                gemm(MatMut::new(dv, width, d), Into::Add, 1.0, p.t(), dout, Threads::One);
                gemm(MatMut::new(dk, width, d), Into::Add, head.scale, ds.t(), q, Threads::One);
                let dq = &mut self.dq[rows.start * d..rows.end * d];
                gemm(MatMut::new(dq, n, d), Into::Add, head.scale, ds, k, Threads::One);
            }
        }
    }
}

simd! {
    fn dot<E: Element>(x: &[E], y: &[E]) -> f32 {
        lanes::sum2(x, y, |x, y| x * y)
    }

    /// Scores become probabilities, gradients of probabilities those of scores (before the scale). Keys unseen get 0.
    fn scores_back(p: &mut [f32], ds: &mut [f32], lse: &[f32], delta: &[f32], block: Block) {
        for (i, (p, ds)) in p.chunks_exact_mut(KEYS).zip(ds.chunks_exact_mut(KEYS)).enumerate() {
            let valid = block.valid(i);
            let padded = valid.next_multiple_of(lanes::LANES);
            let (lse, delta) = (lse[i], delta[i]);
            for (p, ds) in p[..padded].iter_mut().zip(&mut ds[..padded]) {
                *p = math::exp_near(*p - lse);
                *ds = *p * (*ds - delta);
            }
            p[valid..block.width].fill(0.0);
            ds[valid..block.width].fill(0.0);
        }
    }

    /// [`scores_back`] with dropout. Row 0 is query `query`, column 0 key `key`.
    fn scores_back_dropped(
        p: &mut [f32],
        ds: &mut [f32],
        lse: &[f32],
        delta: &[f32],
        block: Block,
        factors: &mut [f32],
        mask: &HeadMask,
        query: usize,
        key: usize,
    ) {
        for (i, (p, ds)) in p.chunks_exact_mut(KEYS).zip(ds.chunks_exact_mut(KEYS)).enumerate() {
            let valid = block.valid(i);
            let padded = valid.next_multiple_of(lanes::LANES);
            mask.fill(&mut factors[..valid], query + i, key);
            let (lse, delta) = (lse[i], delta[i]);
            for ((p, ds), &factor) in p[..padded].iter_mut().zip(&mut ds[..padded]).zip(&factors[..padded]) {
                let probability = math::exp_near(*p - lse);
                *ds = probability * (*ds * factor - delta);
                *p = probability * factor;
            }
            p[valid..block.width].fill(0.0);
            ds[valid..block.width].fill(0.0);
        }
    }
}
