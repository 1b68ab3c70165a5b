//! One pass of some rows through the model.

use super::attend::{Tile, attend};
use super::cache::SlotCache;
use super::pool::Pool;
use super::product::{Finish, Quantised, Rows, each_row, product};
use super::vector::LANES;
use super::weights::{Linear, Norm, Weights};
use super::{Isa, Options, Packed};
use crate::arch::ModelConfig;
use crate::arch::config::{Mlp, Norm as NormKind, NormPosition};
use crate::ops::heads::Heads;
use crate::ops::{gelu, lanes, layernorm, relu2, rmsnorm, simd, swiglu};
use crate::parallel::Parts;

/// Rows whose logits are computed together where those of every row are wanted.
pub const EACH: usize = 64;

/// A token of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub token: u32,
    pub slot: usize,
    pub position: usize,
    /// The feed whose last token this is: its logits are wanted.
    pub last: Option<usize>,
}

/// What a pass works in, allocated once: rows of floats.
#[derive(Debug)]
pub struct Scratch {
    rows: usize,
    /// The residual stream [R, C].
    x: Vec<f32>,
    /// Normalised, or what a branch gives back [R, C].
    normed: Vec<f32>,
    branch: Vec<f32>,
    /// [R, (H + 2K) * D] and [R, H * D].
    qkv: Vec<f32>,
    attended: Vec<f32>,
    /// [R, M or 2M] and, with a gate, [R, M].
    up: Vec<f32>,
    inner: Vec<f32>,
    quantised: Quantised,
    /// For each thread.
    scores: Vec<f32>,
    /// The residual stream after the last token of each feed, or some rows of it [max(slots, EACH), C].
    last: Vec<f32>,
}

impl Scratch {
    /// Room for passes of so many rows, and caches of so many tokens.
    pub fn new(config: &ModelConfig, rows: usize, slots: usize, tokens: usize, threads: usize) -> Scratch {
        let (c, m) = (config.n_embd, config.mlp_dim);
        let gated = config.mlp == Mlp::Swiglu;
        let widest = c.max(m).max(config.attn_dim());
        let wanted = slots.max(EACH);
        Scratch {
            rows,
            x: vec![0.0; rows * c],
            normed: vec![0.0; rows.max(wanted) * c],
            branch: vec![0.0; rows * c],
            qkv: vec![0.0; rows * config.qkv_dim()],
            attended: vec![0.0; rows * config.attn_dim()],
            up: vec![0.0; rows * m * if gated { 2 } else { 1 }],
            inner: vec![0.0; if gated { rows * m } else { 0 }],
            quantised: Quantised::new(rows.max(wanted), widest),
            scores: vec![0.0; threads * super::attend::TOGETHER * tokens],
            last: vec![0.0; wanted * c],
        }
    }

    /// Takes some rows of the pass for the logits.
    pub fn take_rows(&mut self, first: usize, count: usize, c: usize) {
        self.last[..count * c].copy_from_slice(&self.x[first * c..(first + count) * c]);
    }

    /// Rows of a pass at most.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Everything of one pass.
pub struct Step<'a> {
    pub config: &'a ModelConfig,
    pub weights: &'a Weights,
    pub options: &'a Options,
    pub pool: &'a mut Pool,
    pub caches: &'a [SlotCache],
    pub rows: &'a [Row],
    pub tiles: &'a [Tile],
    pub scratch: &'a mut Scratch,
}

impl Step<'_> {
    /// Fills the cache with the rows, and `last` with what the logits come from.
    pub fn run(mut self) {
        let (config, c, r) = (self.config, self.config.n_embd, self.rows.len());
        self.embed();
        for (layer, block) in self.weights.blocks.iter().enumerate() {
            let pre = config.norm_position == NormPosition::Pre;
            let s = &mut *self.scratch;
            if pre {
                norm_rows(self.pool, config, &block.norm_1, &s.x, &mut s.normed, r);
            }
            let input = if pre { &s.normed } else { &s.x };
            linear(self.pool, self.options.isa, &mut s.quantised, &block.qkv, input, &mut s.qkv, r, &|_| {});
            self.attention(layer);
            let s = &mut *self.scratch;
            linear(self.pool, self.options.isa, &mut s.quantised, &block.proj, &s.attended, &mut s.branch, r, &|_| {});
            add_rows(self.pool, &mut s.x, &s.branch, c, r);
            if pre {
                norm_rows(self.pool, config, &block.norm_2, &s.x, &mut s.normed, r);
            } else {
                norm_rows(self.pool, config, &block.norm_1, &s.x, &mut s.normed, r);
                s.x[..r * c].copy_from_slice(&s.normed[..r * c]);
            }
            self.feed_forward(&block.up, &block.down);
            let s = &mut *self.scratch;
            add_rows(self.pool, &mut s.x, &s.branch, c, r);
            if !pre {
                norm_rows(self.pool, config, &block.norm_2, &s.x, &mut s.normed, r);
                s.x[..r * c].copy_from_slice(&s.normed[..r * c]);
            }
        }
        for (row, feed) in self.rows.iter().enumerate().filter_map(|(row, at)| Some((row, at.last?))) {
            let s = &mut *self.scratch;
            s.last[feed * c..(feed + 1) * c].copy_from_slice(&s.x[row * c..(row + 1) * c]);
        }
    }

    fn embed(&mut self) {
        let (weights, c) = (self.weights, self.config.n_embd);
        let x = Parts::new(&mut self.scratch.x);
        let rows = self.rows;
        each_row(self.pool, rows.len(), &|at| {
            // SAFETY: `each_row` calls this once for each row, and elements `at * c..(at + 1) * c` are the row's alone.
            let x = unsafe { x.part(at * c, c) };
            let row = &rows[at];
            weights.tokens.row(row.token as usize, x);
            if let Some(positions) = &weights.positions {
                lanes::add(x, &positions[row.position * c..][..c]);
            }
        });
    }

    /// From packed queries, keys and values to what the queries take.
    fn attention(&mut self, layer: usize) {
        let config = self.config;
        let heads = Heads { n_head: config.n_head, n_kv_head: config.n_kv_head, head_dim: config.head_dim };
        let (d, packed) = (heads.head_dim, heads.packed());
        let (rows, caches, tiles) = (self.rows, self.caches, self.tiles);
        let rope = self.weights.rope.as_ref().map(|table| (table.cos().f32(), table.sin().f32()));
        let qkv = Parts::new(&mut self.scratch.qkv);
        each_row(self.pool, rows.len(), &|at| {
            let row = &rows[at];
            // SAFETY: `each_row` calls this once for each row, and elements `at * packed..(at + 1) * packed` are the row's alone.
            let qkv = unsafe { qkv.part(at * packed, packed) };
            if let Some((cos, sin)) = rope {
                let angles = row.position * (d / 2)..(row.position + 1) * (d / 2);
                rotate(&mut qkv[..heads.value(0)], &cos[angles.clone()], &sin[angles]);
            }
            for kv in 0..heads.n_kv_head {
                let (key, value) = (&qkv[heads.key(kv)..][..d], &qkv[heads.value(kv)..][..d]);
                // SAFETY: no two rows of a pass have one slot and one position (a feed's tokens follow each other, a slot has one
                // feed), so this row alone writes this token; attention, which reads, starts after all rows have been
                // written.
                unsafe { caches[row.slot].write(layer, kv, row.position, key, value) };
            }
        });
        let (isa, format) = (self.options.isa, self.options.cache);
        let qkv = &self.scratch.qkv;
        let scores = Parts::new(&mut self.scratch.scores);
        let room = scores.len() / self.pool.threads();
        let out = Parts::new(&mut self.scratch.attended);
        self.pool.run(tiles.len() * heads.n_kv_head, &|thread, task| {
            let (tile, kv) = (tiles[task / heads.n_kv_head], task % heads.n_kv_head);
            // SAFETY: a thread runs one task at a time, so scores `thread * room..(thread + 1) * room` are this task's; tiles are
            // disjoint rows and a task has one head of keys, so its rows and columns of `out` are no other task's;
            // `out` has a row for every row of the pass, and `Isa` names only what this machine has.
            unsafe {
                let scores = scores.part(thread * room, room);
                let cache = &caches[tile.slot];
                attend(isa, tile, heads, (layer, kv), cache, format, qkv, out.at(0), scores);
            }
        });
    }

    fn feed_forward(&mut self, up: &Linear, down: &Linear) {
        let (s, r, m) = (&mut *self.scratch, self.rows.len(), self.config.mlp_dim);
        // For Post, the residual stream is what the norm has just given, in `normed` as well.
        let (isa, pool) = (self.options.isa, &mut *self.pool);
        let activation: fn(&mut [f32]) = match self.config.mlp {
            Mlp::Gelu => |part| by_copy(part, gelu::cpu::forward_tanh),
            Mlp::GeluErf => |part| by_copy(part, gelu::cpu::forward_erf),
            Mlp::Relu2 => |part| by_copy(part, relu2::cpu::square),
            Mlp::Swiglu => |_| {},
        };
        linear(pool, isa, &mut s.quantised, up, &s.normed, &mut s.up, r, &activation);
        let inner = if self.config.mlp == Mlp::Swiglu {
            let (inner, up) = (Parts::new(&mut s.inner), &s.up);
            each_row(pool, r, &|row| {
                let (gate, up) = up[row * 2 * m..(row + 1) * 2 * m].split_at(m);
                // SAFETY: `each_row` calls this once for each row, and elements `row * m..(row + 1) * m` are the row's alone.
                swiglu::cpu::forward_row(unsafe { inner.part(row * m, m) }, gate, up);
            });
            &s.inner
        } else {
            &s.up
        };
        linear(pool, isa, &mut s.quantised, down, inner, &mut s.branch, r, &|_| {});
    }
}

/// The logits [feeds, V] from `last`.
pub fn logits(packed: &Packed, isa: Isa, pool: &mut Pool, s: &mut Scratch, feeds: usize, logits: &mut [f32]) {
    let (config, weights) = (&packed.config, &packed.weights);
    let c = config.n_embd;
    let x = match &weights.norm_f {
        Some(norm) => {
            norm_rows(pool, config, norm, &s.last, &mut s.normed, feeds);
            &s.normed
        }
        None => &s.last,
    };
    let head = weights.head();
    if head.format().is_quantised() {
        s.quantised.fill(pool, x, c, feeds, c);
    }
    product(pool, isa, Rows { data: x, stride: c, count: feeds }, &s.quantised, head, logits, &|_, _| {});
}

/// `out` [R, N] = act(x [R, K] W^T + b).
fn linear(
    pool: &mut Pool,
    isa: Isa,
    quantised: &mut Quantised,
    linear: &Linear,
    x: &[f32],
    out: &mut [f32],
    rows: usize,
    activation: &(dyn Fn(&mut [f32]) + Sync),
) {
    let k = linear.matrix.k();
    if linear.matrix.format().is_quantised() {
        quantised.fill(pool, x, k, rows, k);
    }
    let finish: &Finish<'_> = &|part, first| {
        if let Some(bias) = &linear.bias {
            lanes::add(part, &bias[first..first + part.len()]);
        }
        activation(part);
    };
    product(pool, isa, Rows { data: x, stride: k, count: rows }, quantised, &linear.matrix, out, finish);
}

/// An operator that reads one slice and writes another, in place.
fn by_copy(part: &mut [f32], operator: fn(&mut [f32], &[f32])) {
    const MAX: usize = 8 * LANES;
    for part in part.chunks_mut(MAX) {
        let mut copy = [0.0; MAX];
        let copy = &mut copy[..part.len()];
        copy.copy_from_slice(part);
        operator(part, copy);
    }
}

fn norm_rows(pool: &mut Pool, config: &ModelConfig, norm: &Norm, x: &[f32], y: &mut [f32], rows: usize) {
    let (c, eps) = (config.n_embd, config.norm_eps as f32);
    let y = Parts::new(y);
    each_row(pool, rows, &|row| {
        // SAFETY: `each_row` calls this once for each row, and elements `row * c..(row + 1) * c` are the row's alone.
        let (y, x) = (unsafe { y.part(row * c, c) }, &x[row * c..(row + 1) * c]);
        match config.norm {
            NormKind::Layernorm => {
                layernorm::cpu::forward_row(y, x, &norm.weight, norm.bias.as_deref(), eps);
            }
            NormKind::Rmsnorm => {
                rmsnorm::cpu::forward_row(y, x, &norm.weight, eps);
            }
        }
    });
}

/// `x += branch`.
fn add_rows(pool: &mut Pool, x: &mut [f32], branch: &[f32], c: usize, rows: usize) {
    let x = Parts::new(x);
    each_row(pool, rows, &|row| {
        // SAFETY: `each_row` calls this once for each row, and elements `row * c..(row + 1) * c` are the row's alone.
        lanes::add(unsafe { x.part(row * c, c) }, &branch[row * c..(row + 1) * c]);
    });
}

simd! {
    /// Rotary positions (rotate-half) of consecutive heads: as `ops::rope`.
    fn rotate(heads: &mut [f32], cos: &[f32], sin: &[f32]) {
        for head in heads.chunks_exact_mut(2 * cos.len()) {
            let (first, second) = head.split_at_mut(cos.len());
            for (((first, second), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let (x, y) = (*first, *second);
                *first = x * cos - y * sin;
                *second = y * cos + x * sin;
            }
        }
    }
}
