//! The fast engine on the CPU: packed weights, a cache in panels, a few spinning threads, no allocation for a token.
//!
//! Every number is computed as if its row stood alone: a sum runs over its terms in an order that its own row fixes (see
//! `kernels` and `attend`). So the logits of a sequence depend neither on what is fed next to it, nor on the number of
//! threads, nor even on the pieces in which it is fed: a prompt in one call gives the same bits as token by token.
//!
//! Axes: `R` rows (tokens of all sequences of a pass), `C` channels, `H` heads, `D` head size, `V` vocabulary.

mod attend;
mod bandwidth;
mod cache;
mod kernels;
mod matrix;
mod pool;
mod product;
mod step;
#[cfg(test)]
mod tests;
mod vector;
mod weights;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::Arc;

use self::attend::Tile;
pub use self::bandwidth::read_bandwidth;
use self::cache::{Shape, SlotCache};
pub use self::kernels::Isa;
use self::pool::Pool;
use self::step::{Row, Scratch};
use self::vector::LANES;
use self::weights::Weights;
use super::{CacheFormat, Decode, Feed, WeightFormat, check};
use crate::arch::ModelConfig;
use crate::error::Result;
use crate::tape::Params;

/// Rows of one pass at most: longer prompts go through in several.
const PASS: usize = 512;

/// A model's weights, packed once for any number of engines.
#[derive(Clone, Debug)]
pub struct Packed {
    config: ModelConfig,
    weights: Arc<Weights>,
}

impl Packed {
    /// Packs parameters, which must be in host memory.
    ///
    /// # Errors
    /// If the parameters are not those of the shape.
    pub fn new(config: &ModelConfig, params: &Params, format: WeightFormat) -> Result<Packed> {
        config.validate()?;
        Ok(Packed { config: config.clone(), weights: Arc::new(Weights::pack(config, params, format)?) })
    }

    /// Bytes of weights that must be read for one token.
    pub fn bytes_per_token(&self) -> usize {
        self.weights.bytes_per_token()
    }
}

/// How a [`Cpu`] engine is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Sequences side by side.
    pub slots: usize,
    /// Tokens of each, at most the context.
    pub capacity: usize,
    /// The numbers of the cache.
    pub cache: CacheFormat,
    /// Threads, the caller's included.
    pub threads: usize,
    /// Instructions; [`Isa::best`] of the machine.
    pub isa: Isa,
}

impl Options {
    /// The best instructions, as many threads as the rest of the program uses, keys and values in fp32.
    pub fn new(slots: usize, capacity: usize) -> Options {
        let threads = rayon::current_num_threads();
        Options { slots, capacity, cache: CacheFormat::Fp32, threads, isa: Isa::best() }
    }
}

/// The engine.
#[derive(Debug)]
pub struct Cpu {
    packed: Packed,
    options: Options,
    pool: Pool,
    caches: Vec<SlotCache>,
    /// The pass under way: its rows, and the tiles of its attention.
    rows: Vec<Row>,
    tiles: Vec<Tile>,
    scratch: Scratch,
}

impl Cpu {
    /// An engine with empty slots. All that it will ever need is allocated here.
    ///
    /// # Panics
    /// If `options.isa` is not of [`Isa::available`].
    pub fn new(packed: &Packed, options: Options) -> Cpu {
        assert!(Isa::available().contains(&options.isa), "{:?} on a machine that has it not", options.isa);
        let config = &packed.config;
        let capacity = options.capacity.clamp(1, config.context_length);
        let options = Options { capacity, ..options };
        let shape = Shape {
            layers: config.n_layer,
            heads: config.n_kv_head,
            d: config.head_dim,
            tokens: capacity.next_multiple_of(LANES),
            format: options.cache,
        };
        let rows = PASS.min(options.slots.saturating_mul(capacity)).max(1);
        let pool = Pool::new(options.threads);
        Cpu {
            packed: packed.clone(),
            options,
            caches: (0..options.slots).map(|_| SlotCache::new(shape)).collect(),
            rows: Vec::with_capacity(rows),
            tiles: Vec::with_capacity(rows),
            scratch: Scratch::new(config, rows, options.slots, shape.tokens, pool.threads()),
            pool,
        }
    }

    /// Bytes that the cache of one slot takes when it is full.
    pub fn cache_bytes(&self) -> usize {
        let config = &self.packed.config;
        let shape = Shape {
            layers: config.n_layer,
            heads: config.n_kv_head,
            d: config.head_dim,
            tokens: self.options.capacity.next_multiple_of(LANES),
            format: self.options.cache,
        };
        shape.bytes()
    }

    /// Adds tokens to the sequence in a slot and gives the logits `[V]` after each of them to `take`, in order: the
    /// same bits as
    /// [`Decode::feed`] token by token, in passes of many.
    ///
    /// # Errors
    /// As [`Decode::feed`].
    pub fn feed_each(&mut self, slot: usize, tokens: &[u32], take: &mut dyn FnMut(&[f32])) -> Result<()> {
        check(self, &[Feed { slot, tokens }])?;
        let (v, c) = (self.packed.config.vocab_size, self.packed.config.n_embd);
        let mut logits = vec![0.0; step::EACH * v];
        for piece in tokens.chunks(self.scratch.rows()) {
            self.push(slot, piece, None);
            self.run();
            for first in (0..piece.len()).step_by(step::EACH) {
                let count = step::EACH.min(piece.len() - first);
                self.scratch.take_rows(first, count, c);
                let logits = &mut logits[..count * v];
                step::logits(&self.packed, self.options.isa, &mut self.pool, &mut self.scratch, count, logits);
                logits.chunks_exact(v).for_each(&mut *take);
            }
        }
        Ok(())
    }

    /// Adds rows to the pass; runs it when it is full.
    fn gather(&mut self, index: usize, feed: &Feed<'_>) {
        let mut done = 0;
        while done < feed.tokens.len() {
            let room = self.scratch.rows() - self.rows.len();
            let count = room.min(feed.tokens.len() - done);
            let last = (done + count == feed.tokens.len()).then_some(index);
            self.push(feed.slot, &feed.tokens[done..done + count], last);
            done += count;
            if self.rows.len() == self.scratch.rows() {
                self.run();
            }
        }
    }

    /// Adds rows, for which there is room, to the pass.
    fn push(&mut self, slot: usize, tokens: &[u32], last: Option<usize>) {
        let past = self.caches[slot].len;
        for (at, &token) in tokens.iter().enumerate() {
            let last = last.filter(|_| at + 1 == tokens.len());
            self.rows.push(Row { token, slot, position: past + at, last });
        }
        self.caches[slot].len = past + tokens.len();
    }

    /// Runs the rows that have been gathered through all blocks.
    fn run(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        self.tiles.clear();
        for (at, row) in self.rows.iter().enumerate() {
            match self.tiles.last_mut() {
                Some(tile) if tile.slot == row.slot && tile.rows < attend::TOGETHER => tile.rows += 1,
                _ => self.tiles.push(Tile { slot: row.slot, first_row: at, rows: 1, past: row.position }),
            }
        }
        step::Step {
            config: &self.packed.config,
            weights: &self.packed.weights,
            options: &self.options,
            pool: &mut self.pool,
            caches: &self.caches,
            rows: &self.rows,
            tiles: &self.tiles,
            scratch: &mut self.scratch,
        }
        .run();
        self.rows.clear();
    }
}

impl Decode for Cpu {
    fn config(&self) -> &ModelConfig {
        &self.packed.config
    }

    fn slots(&self) -> usize {
        self.caches.len()
    }

    fn capacity(&self) -> usize {
        self.options.capacity
    }

    fn len(&self, slot: usize) -> usize {
        self.caches[slot].len
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        let cache = &mut self.caches[slot];
        cache.len = cache.len.min(len);
    }

    fn feed(&mut self, feeds: &[Feed<'_>], logits: &mut Vec<f32>) -> Result<()> {
        check(self, feeds)?;
        for (index, feed) in feeds.iter().enumerate() {
            self.gather(index, feed);
        }
        self.run();
        logits.resize(feeds.len() * self.packed.config.vocab_size, 0.0);
        step::logits(&self.packed, self.options.isa, &mut self.pool, &mut self.scratch, feeds.len(), logits);
        Ok(())
    }
}
