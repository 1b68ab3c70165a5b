//! Tokens from the most to the least likely, without sorting what nobody looks at.
//!
//! The rules of sampling speak of the most likely tokens, and a draw walks down from the top until it has met its
//! number. Only a few tokens are ever looked at, but the sum of all weights is needed. So weights go into buckets by
//! their score; whole buckets are passed over by their sums, and only one in which something ends is sorted.

use std::cell::RefCell;

use crate::math;
use crate::ops::simd;

/// Buckets, and how many to one unit of the exponent: 64 units down, a weight is below 1e-27.
const BUCKETS: usize = 2048;
const PER_UNIT: f64 = 32.0;

thread_local! {
    /// The memory of choosing a token, kept from one to the next.
    pub static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What choosing a token works in.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Scores [V] after the penalty.
    pub scores: Vec<f64>,
    /// The ids that are considered.
    pub order: Vec<u32>,
    /// For each of `order`: its weight and its bucket.
    weights: Vec<f64>,
    bucket_of: Vec<u16>,
    sums: Vec<f64>,
    /// A bucket that is being looked at: places in `order`, the most likely first.
    places: Vec<u32>,
}

impl Scratch {
    /// Leaves the k most likely tokens in `order`, most likely first; of equals the lower ids.
    pub fn keep_largest(&mut self, k: usize) {
        let Scratch { scores, order, .. } = self;
        let descending = |&a: &u32, &b: &u32| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b));
        let room = (2 * k).max(k + 64);
        order.clear();
        let mut least = f64::NEG_INFINITY;
        let mut full = false;
        for (id, &score) in scores.iter().enumerate() {
            // Once k are found, one that is not above the k-th of them will never be needed: it has a higher id.
            if full && score <= least {
                continue;
            }
            order.push(id as u32);
            if order.len() == room {
                order.select_nth_unstable_by(k - 1, descending);
                order.truncate(k);
                (least, full) = (scores[order[k - 1] as usize], true);
            }
        }
        order.sort_unstable_by(descending);
        order.truncate(k);
    }
}

/// The tokens up to one: the sum of their weights, and that one.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    pub sum: f64,
    pub last: u32,
}

/// The tokens of `order` with weights `exp((score - top) / temperature)`.
pub struct Descending<'a> {
    scratch: &'a mut Scratch,
    /// The sum of all weights.
    pub total: f64,
}

impl<'a> Descending<'a> {
    /// Weighs the tokens of `order`, of which there must be one at least.
    pub fn new(scratch: &'a mut Scratch, top: f64, temperature: f64) -> Descending<'a> {
        let Scratch { scores, order, weights, bucket_of, sums, places } = scratch;
        // Now, for the largest bucket that there may be: later tokens then need no more memory.
        places.clear();
        places.reserve(order.len());
        weights.clear();
        weights.extend(order.iter().map(|&id| (scores[id as usize] - top) / temperature));
        bucket_of.clear();
        bucket_of.extend(weights.iter().map(|x| ((-x * PER_UNIT) as usize).min(BUCKETS - 1) as u16));
        exponentials_of(weights);
        sums.clear();
        sums.resize(BUCKETS, 0.0);
        for (&bucket, weight) in bucket_of.iter().zip(weights.iter()) {
            sums[bucket as usize] += weight;
        }
        let total = sums.iter().sum();
        Descending { scratch, total }
    }

    /// The shortest prefix with a sum that is enough; `enough` must hold for all larger ones. None: not even all are.
    pub fn reach(&mut self, enough: impl Fn(f64) -> bool) -> Option<Prefix> {
        let mut sum = 0.0;
        for bucket in 0..BUCKETS {
            if !enough(sum + self.scratch.sums[bucket]) {
                sum += self.scratch.sums[bucket];
                continue;
            }
            self.sort(bucket);
            for &place in &self.scratch.places {
                sum += self.scratch.weights[place as usize];
                if enough(sum) {
                    return Some(Prefix { sum, last: self.scratch.order[place as usize] });
                }
            }
            // Added up one by one the bucket may miss its sum by a rounding: on to the next.
        }
        None
    }

    /// All tokens of at least this weight, and the most likely one in any case.
    pub fn at_least(&self, weight: f64) -> Prefix {
        let mut kept = Prefix { sum: 0.0, last: self.scratch.order[0] };
        let mut some = false;
        for (&id, &of) in self.scratch.order.iter().zip(&self.scratch.weights) {
            if of >= weight.min(1.0) {
                kept.sum += of;
                if !some || self.before(kept.last, id) {
                    kept.last = id;
                }
                some = true;
            }
        }
        kept
    }

    /// Whether token `a` stands before `b`: more likely, or of the same score with a lower id.
    pub fn before(&self, a: u32, b: u32) -> bool {
        let scores = &self.scratch.scores;
        scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)).is_lt()
    }

    /// The least likely token.
    pub fn least(&self) -> u32 {
        let order = self.scratch.order.iter().copied();
        order.reduce(|least, id| if self.before(least, id) { id } else { least }).unwrap_or(0)
    }

    fn sort(&mut self, bucket: usize) {
        let Scratch { scores, order, bucket_of, places, .. } = &mut *self.scratch;
        places.clear();
        places.extend((0..order.len() as u32).filter(|&place| bucket_of[place as usize] as usize == bucket));
        places.sort_unstable_by(|&a, &b| {
            let (a, b) = (order[a as usize], order[b as usize]);
            scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b))
        });
    }
}

/// The sum of `exp(logit - top)`.
pub fn exponentials(logits: &[f32], top: f64) -> f64 {
    let mut sums = [0.0f64; 8];
    exponentials_into(logits, top, &mut sums);
    sums.iter().sum()
}

simd! {
    fn exponentials_into(logits: &[f32], top: f64, sums: &mut [f64; 8]) {
        let mut chunks = logits.chunks_exact(8);
        for chunk in &mut chunks {
            for (sum, &logit) in sums.iter_mut().zip(chunk) {
                *sum += math::exp_down(f64::from(logit) - top);
            }
        }
        for (sum, &logit) in sums.iter_mut().zip(chunks.remainder()) {
            *sum += math::exp_down(f64::from(logit) - top);
        }
    }

    fn exponentials_of(x: &mut [f64]) {
        for x in x {
            *x = math::exp_down(*x);
        }
    }
}
