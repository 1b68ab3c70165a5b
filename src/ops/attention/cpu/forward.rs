//! The forward pass: online softmax over blocks of keys, one task for each block of queries of a head.

use std::ops::Range;

use rayon::prelude::*;

use super::{Extent, HeadMask, KEYS, QUERIES, operand};
use crate::math;
use crate::ops::attention::AttentionDropout;
use crate::ops::documents::Segment;
use crate::ops::element::{Element, narrow_block};
use crate::ops::matmul::{Into, Mat, MatMut, Threads, gemm};
use crate::ops::{lanes, simd};
use crate::parallel::Parts;

/// `out` [B, T, H * D] and the log-sum-exp `lse` [B, H, T] of the scores of packed rows `qkv` [B, T, (H + 2K) * D].
pub fn forward<E: Element>(
    out: &mut [E],
    lse: &mut [f32],
    qkv: &[E],
    extent: Extent<'_>,
    dropout: Option<AttentionDropout<'_>>,
) {
    let Extent { t, heads, .. } = extent;
    let (d, packed) = (heads.head_dim, heads.packed());
    let blocks_of = |segment: Segment| {
        let blocks = (0..segment.len).step_by(QUERIES);
        blocks.map(move |first| (segment, first..segment.len.min(first + QUERIES)))
    };
    let blocks: Vec<(Segment, Range<usize>)> = extent.segments().into_iter().flat_map(blocks_of).collect();
    let (out, lse) = (Parts::new(out), Parts::new(lse));
    (0..blocks.len() * heads.n_head).into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        let (h, (segment, rows)) = (task % heads.n_head, blocks[task / heads.n_head].clone());
        let Segment { b, first, .. } = segment;
        let kv = heads.kv_of(h);
        let head = Head {
            queries: Strided { data: &qkv[extent.packed_row(b, first) + heads.query(h)..], stride: packed },
            keys: Strided { data: &qkv[extent.packed_row(b, first) + heads.key(kv)..], stride: packed },
            values: Strided { data: &qkv[extent.packed_row(b, first) + heads.value(kv)..], stride: packed },
            d,
            past: 0,
            scale: extent.scale(),
            mask: HeadMask::new(dropout, segment, t, h),
        };
        scratch.attend(&head, rows.clone());
        // SAFETY: a task is one head of one block of rows, and blocks are disjoint rows of disjoint segments: no other task has these
        // elements of `lse`.
        let lse = unsafe { lse.part((b * heads.n_head + h) * t + first + rows.start, rows.len()) };
        for (i, row) in rows.enumerate() {
            // SAFETY: the head's `d` columns of one of the block's rows: no other task has them, and the row before is gone.
            let out = unsafe { out.part((b * t + first + row) * heads.width() + h * d, d) };
            lse[i] = scratch.finish(out, i);
        }
    });
}

/// Rows of one head: `stride` apart, from the first element of `data` on.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a, E> {
    pub data: &'a [E],
    pub stride: usize,
}

impl<'a, E: Element> Strided<'a, E> {
    /// The rows of a range, `d` wide.
    pub fn rows(self, rows: Range<usize>, d: usize) -> Mat<'a, E> {
        Mat::strided(&self.data[rows.start * self.stride..], rows.len(), d, self.stride)
    }

    /// One row.
    pub fn row(self, row: usize, d: usize) -> &'a [E] {
        &self.data[row * self.stride..][..d]
    }
}

/// One query head of one sequence: query row `i` sees the keys `0..=past + i`.
pub(super) struct Head<'a, E> {
    pub queries: Strided<'a, E>,
    pub keys: Strided<'a, E>,
    pub values: Strided<'a, E>,
    pub d: usize,
    pub past: usize,
    pub scale: f32,
    pub mask: Option<HeadMask>,
}

/// What a task works in: reused from block to block.
#[derive(Default)]
pub(super) struct Scratch {
    /// Scores, then probabilities, of a block: rows of KEYS, so that a row can be padded to whole lanes. Probabilities
    /// are summed as they are, and rounded in place to operands of the second product.
    scores: Vec<f32>,
    /// The weighted values so far, relative to `max`, of QUERIES rows.
    acc: Vec<f32>,
    /// The largest score of each row so far.
    max: Vec<f32>,
    /// The sum of `exp(score - max)` of each row so far.
    sum: Vec<f32>,
    /// Dropout factors of a row.
    factors: Vec<f32>,
}

impl Scratch {
    /// Attention of the queries `rows`, at most QUERIES; [`Scratch::finish`] gives the rows of the result.
    pub fn attend<E: Element>(&mut self, head: &Head<'_, E>, rows: Range<usize>) {
        let (n, d) = (rows.len(), head.d);
        self.scores.resize(QUERIES * KEYS, 0.0);
        self.factors.resize(KEYS, 0.0);
        self.acc.resize(QUERIES * d, 0.0);
        self.max.clear();
        self.max.resize(n, f32::NEG_INFINITY);
        self.sum.clear();
        self.sum.resize(n, 0.0);
        // Keys after the last query of the block are not touched; those after other queries are cut off row by row.
        let seen = head.past + rows.end;
        for first in (0..seen).step_by(KEYS) {
            let keys = first..seen.min(first + KEYS);
            let width = keys.len();
            let scores = &mut self.scores[..n * KEYS];
            let (q, k) = (head.queries.rows(rows.clone(), d), head.keys.rows(keys.clone(), d));
            gemm(MatMut::strided(scores, n, width, KEYS), Into::Set, head.scale, q, k.t(), Threads::One);
            let block = Block { width, first_valid: (head.past + rows.start + 1) as isize - first as isize };
            let acc = &mut self.acc[..n * d];
            online_softmax(scores, acc, &mut self.max, &mut self.sum, block);
            if let Some(mask) = &head.mask {
                drop_out(scores, &mut self.factors, mask, block, rows.start, first);
            }
            let into = if first == 0 { Into::Set } else { Into::Add };
            let values = head.values.rows(keys, d);
            narrow_block::<E>(scores, width, KEYS);
            gemm(MatMut::new(acc, n, d), into, 1.0, operand(scores, n, width), values, Threads::One);
        }
    }

    /// Writes row `i` of the result to `out` and returns its log-sum-exp.
    pub fn finish<E: Element>(&self, out: &mut [E], i: usize) -> f32 {
        let d = out.len();
        scaled(out, &self.acc[i * d..][..d], 1.0 / self.sum[i]);
        (f64::from(self.max[i]) + math::ln(f64::from(self.sum[i]))) as f32
    }
}

/// A block of scores: the first of its rows sees its first `first_valid` keys (perhaps none), each further row one more.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub width: usize,
    pub first_valid: isize,
}

impl Block {
    /// How many keys row `i` sees.
    #[inline(always)]
    pub fn valid(&self, i: usize) -> usize {
        (self.first_valid + i as isize).clamp(0, self.width as isize) as usize
    }
}

simd! {
    fn scaled<E: Element>(out: &mut [E], x: &[f32], factor: f32) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = E::store(x * factor);
        }
    }

    /// Scores become `exp(score - max)`, where `max` now covers this block too; what was accumulated is brought to the new
    /// maximum (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). Keys unseen get 0.
    fn online_softmax(scores: &mut [f32], acc: &mut [f32], max: &mut [f32], sum: &mut [f32], block: Block) {
        let d = acc.len() / max.len();
        for (i, row) in scores.chunks_exact_mut(KEYS).enumerate() {
            let valid = block.valid(i);
            if valid > 0 {
                let padded = &mut row[..valid.next_multiple_of(lanes::LANES)];
                padded[valid..].fill(f32::NEG_INFINITY);
                let largest = lanes::max(padded);
                // A NaN, old or new, wins and makes the row NaN.
                let new = if largest > max[i] || largest.is_nan() { largest } else { max[i] };
                // Before the first block there is nothing to correct.
                if new != max[i] && max[i] != f32::NEG_INFINITY {
                    let correction = math::exp_near(max[i] - new);
                    acc[i * d..(i + 1) * d].iter_mut().for_each(|acc| *acc *= correction);
                    sum[i] *= correction;
                }
                padded.iter_mut().for_each(|score| *score = math::exp_near(*score - new));
                sum[i] += lanes::sum(&padded[..valid], |p| p);
                max[i] = new;
            }
            row[valid..block.width].fill(0.0);
        }
    }

    /// Multiplies probabilities with their dropout factors. Row 0 is query `query`, column 0 key `key`.
    fn drop_out(p: &mut [f32], factors: &mut [f32], mask: &HeadMask, block: Block, query: usize, key: usize) {
        for (i, row) in p.chunks_exact_mut(KEYS).enumerate() {
            let valid = block.valid(i);
            mask.fill(&mut factors[..valid], query + i, key);
            for (p, factor) in row[..valid].iter_mut().zip(&factors[..]) {
                *p *= factor;
            }
        }
    }
}
