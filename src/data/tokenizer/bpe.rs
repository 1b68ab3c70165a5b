//! Byte-level byte-pair encoding (Sennrich et al., 2016; on bytes: Radford et al., 2019): the encoder's hot path.
//!
//! A word starts as its bytes; as long as some adjacent pair is in the merge table, the pair of lowest rank, the
//! leftmost of equals, becomes one token. Text repeats its words, so most of the work is remembering (see
//! [`cache`](super::cache)), and only a word that is new merges. Short words merge by scanning an array on the stack;
//! long ones with a heap over a linked list, n log n, so that a megabyte without a blank is no trap.

use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::cache::{Cache, Caches};
use super::{short, split};

/// No rank, no token, no position.
const NONE: u32 = u32::MAX;
/// Words up to this many bytes merge on the stack by scanning, longer ones with a heap.
const SHORT: usize = 48;

/// A token that is looked for in the text itself, before any splitting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Added {
    /// The text it is spelled as; never empty.
    pub content: String,
    /// Its id.
    pub id: u32,
    /// Special ones are only found where the caller asks for it; others always.
    pub special: bool,
}

/// A byte-level BPE vocabulary, ready to encode.
pub(super) struct Bpe {
    /// Bytes of each id; `None` where the vocabulary has a hole.
    pub tokens: Vec<Option<Box<[u8]>>>,
    /// Pairs in order of rank, each with the token that it becomes.
    pub merges: Vec<(u32, u32, u32)>,
    /// Tokens found in the text itself, in order of id.
    pub added: Vec<Added>,
    /// Id of each single byte.
    pub byte_ids: [u32; 256],
    /// Left id in the upper half, right id in the lower -> rank.
    ranks: FxHashMap<u64, u32>,
    /// Rank of each pair of bytes, `256 * left + right`: what every new word asks for first.
    byte_ranks: Box<[u32]>,
    caches: Caches,
}

impl Bpe {
    /// Puts the tables together. `tokens` holds every byte alone at `byte_ids`; every id of `merges` is below
    /// `tokens.len()`.
    pub fn new(
        tokens: Vec<Option<Box<[u8]>>>,
        merges: Vec<(u32, u32, u32)>,
        mut added: Vec<Added>,
        byte_ids: [u32; 256],
    ) -> Self {
        // Of a pair that is listed twice the later rank counts, as in the tokenizers crate.
        let ranks: FxHashMap<u64, u32> =
            merges.iter().enumerate().map(|(rank, &(left, right, _))| (pair(left, right), rank as u32)).collect();
        let byte_pairs = byte_ids.iter().flat_map(|&left| byte_ids.iter().map(move |&right| pair(left, right)));
        let byte_ranks = byte_pairs.map(|pair| ranks.get(&pair).copied().unwrap_or(NONE)).collect();
        added.sort_by_key(|a| a.id);
        Bpe { tokens, merges, added, byte_ids, ranks, byte_ranks, caches: Caches::default() }
    }

    /// Appends the ids of `text`; special tokens spelled out in it count as such only with `special`.
    pub fn encode(&self, text: &str, special: bool, out: &mut Vec<u32>) {
        if !self.added.iter().any(|a| special || !a.special) {
            return self.encode_plain(text, out);
        }
        let mut finder = Finder::new(&self.added, text);
        let mut done = 0;
        while let Some((at, added)) = finder.next_match() {
            // A special token that is not asked for hides what it covers, but cuts nothing (as in the tokenizers crate).
            if special || !added.special {
                self.encode_plain(&text[done..at], out);
                out.push(added.id);
                done = at + added.content.len();
            }
        }
        self.encode_plain(&text[done..], out);
    }

    fn encode_plain(&self, text: &str, out: &mut Vec<u32>) {
        if self.merges.is_empty() {
            out.extend(text.bytes().map(|b| self.byte_ids[b as usize]));
            return;
        }
        self.caches.with(|cache| {
            // Known words put down all their places for ids, the empty ones too, and the next goes over those.
            let (mut buffer, mut filled) = ([0; 1024], 0);
            let mut words = split::words(text);
            while let Some(range) = words.next_range() {
                let key = short::key(text.as_bytes(), range.clone());
                if let Some(ids) = key.and_then(|key| cache.short(key)) {
                    if filled + ids.len() > buffer.len() {
                        out.extend_from_slice(&buffer[..filled]);
                        filled = 0;
                    }
                    buffer[filled..filled + ids.len()].copy_from_slice(ids);
                    filled += ids[3] as usize;
                    continue;
                }
                out.extend_from_slice(&buffer[..filled]);
                filled = 0;
                self.encode_rare(cache, &text.as_bytes()[range], key, out);
            }
            out.extend_from_slice(&buffer[..filled]);
        });
    }

    /// Appends the ids of a word that is not among the short ones of the cache.
    #[inline(never)]
    fn encode_rare(&self, cache: &mut Cache, word: &[u8], key: Option<u128>, out: &mut Vec<u32>) {
        if let Some(ids) = cache.long(word) {
            out.extend_from_slice(ids);
            return;
        }
        let start = out.len();
        self.merge_word(word, out);
        let ids = &out[start..];
        if key.and_then(|key| cache.remember_short(key, ids)).is_none() {
            cache.remember_long(word, ids);
        }
    }

    /// Appends the ids of one word, from scratch.
    fn merge_word(&self, word: &[u8], out: &mut Vec<u32>) {
        if word.len() <= SHORT { self.merge_short(word, out) } else { self.merge_long(word, out) }
    }

    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.ranks.get(&pair(left, right)).copied().unwrap_or(NONE)
    }

    fn merge_short(&self, word: &[u8], out: &mut Vec<u32>) {
        let mut ids = [0u32; SHORT];
        let mut ranks = [NONE; SHORT]; // ranks[i] is that of the pair (i, i + 1)
        let mut n = word.len();
        for (id, &byte) in ids.iter_mut().zip(word) {
            *id = self.byte_ids[byte as usize];
        }
        for (rank, bytes) in ranks.iter_mut().zip(word.windows(2)) {
            *rank = self.byte_ranks[usize::from(bytes[0]) << 8 | usize::from(bytes[1])];
        }
        while n > 1 {
            let (mut best, mut lowest) = (0, NONE);
            for (i, &rank) in ranks[..n - 1].iter().enumerate() {
                if rank < lowest {
                    (best, lowest) = (i, rank);
                }
            }
            if lowest == NONE {
                break;
            }
            ids[best] = self.merges[lowest as usize].2;
            ids.copy_within(best + 2..n, best + 1);
            ranks.copy_within((best + 2).min(n - 1)..n - 1, best + 1);
            n -= 1;
            ranks[n - 1] = NONE;
            if best + 1 < n {
                ranks[best] = self.rank(ids[best], ids[best + 1]);
            }
            if best > 0 {
                ranks[best - 1] = self.rank(ids[best - 1], ids[best]);
            }
        }
        out.extend_from_slice(&ids[..n]);
    }

    fn merge_long(&self, word: &[u8], out: &mut Vec<u32>) {
        let n = word.len();
        let mut ids: Vec<u32> = word.iter().map(|&b| self.byte_ids[b as usize]).collect();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut before: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
        let candidates = (1..n).filter_map(|i| match self.rank(ids[i - 1], ids[i]) {
            NONE => None,
            rank => Some(Reverse((rank, i - 1))),
        });
        let mut heap: BinaryHeap<Reverse<(u32, usize)>> = candidates.collect();
        while let Some(Reverse((rank, at))) = heap.pop() {
            let right = next[at];
            // A candidate is stale when its left part is gone or the pair there has become another.
            if ids[at] == NONE || right >= n || self.rank(ids[at], ids[right]) != rank {
                continue;
            }
            ids[at] = self.merges[rank as usize].2;
            ids[right] = NONE;
            let after = next[right];
            next[at] = after;
            if after < n {
                before[after] = at;
                let rank = self.rank(ids[at], ids[after]);
                if rank != NONE {
                    heap.push(Reverse((rank, at)));
                }
            }
            let left = before[at];
            if left < n {
                let rank = self.rank(ids[left], ids[at]);
                if rank != NONE {
                    heap.push(Reverse((rank, left)));
                }
            }
        }
        out.extend(ids.into_iter().filter(|&id| id != NONE));
    }
}

#[inline]
fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Finds added tokens in a text: leftmost first, the longest of those that start together, without overlaps.
struct Finder<'a> {
    added: &'a [Added],
    text: &'a str,
    /// Where each token stands next, at or after `from`; recomputed only once it is passed, so the whole is linear.
    next: Vec<Option<usize>>,
    from: usize,
}

impl<'a> Finder<'a> {
    fn new(added: &'a [Added], text: &'a str) -> Self {
        Finder { added, text, next: added.iter().map(|a| text.find(&a.content)).collect(), from: 0 }
    }

    fn next_match(&mut self) -> Option<(usize, &'a Added)> {
        for (added, next) in self.added.iter().zip(&mut self.next) {
            if next.is_some_and(|at| at < self.from) {
                *next = self.text[self.from..].find(&added.content).map(|at| at + self.from);
            }
        }
        let found = self.added.iter().zip(&self.next).filter_map(|(added, next)| next.map(|at| (at, added)));
        let (at, added) = found.min_by_key(|(at, added)| (*at, Reverse(added.content.len())))?;
        self.from = at + added.content.len();
        Some((at, added))
    }
}
