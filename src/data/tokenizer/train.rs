//! Training byte-level BPE vocabularies (Sennrich et al., 2016), exactly and fast.
//!
//! Words (GPT-2's split) are counted once, in parallel; then the most frequent adjacent pair becomes a token, again and
//! again. Ties go to the pair with the greater left byte string, then the greater right one, so the outcome is a pure
//! function of the word counts: no thread, no hash and no document order has a say in it.
//!
//! The distinct words lie end to end in one array, one slot a byte. A token stands at its first *and* its last slot, so
//! that both neighbours of any token are found by its length alone: four bytes a slot are all the linked list there is.
//! Each pair keeps the places where it was seen, and a merge visits only those; the heap of pairs is corrected when a
//! stale count comes to its top. The whole costs one visit for each merged occurrence, whatever the words' lengths.
//!
//! Ids are GPT-2's: 256 bytes in the order of its alphabet, merges in order, and `<|endoftext|>` last.

use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BinaryHeap;
use std::rc::Rc;

use super::alphabet::gpt2_byte_order;
use super::bpe::{Added, Bpe};
use super::{END_OF_TEXT, Tokenizer, split};
use crate::error::{Error, Result};

/// Bytes of text gathered before a round of counting, and of one thread's share of it.
const ROUND: usize = 32 << 20;
const SHARE: usize = 1 << 20;

/// Stands between words, and in slots that no token begins or ends at.
const NONE: u32 = u32::MAX;

/// Trains a byte-level BPE vocabulary of `vocab_size` ids (256 bytes, merges, `<|endoftext|>`) on `texts`; no word crosses
/// from one text into the next. `progress(done, total)` is called after each merge. When no pair occurs twice any more, the
/// vocabulary is smaller than asked: compare [`Tokenizer::vocab_size`]. No text at all is an error.
pub fn train_bpe(
    texts: &mut dyn Iterator<Item = Result<String>>,
    vocab_size: usize,
    progress: &dyn Fn(usize, usize),
) -> Result<Tokenizer> {
    if vocab_size < 257 {
        return Err(Error::usage(format!(
            "a vocabulary of {vocab_size} is too small: 256 bytes and {END_OF_TEXT} make 257"
        )));
    }
    let words = count_words(texts)?;
    if words.is_empty() {
        return Err(Error::usage("there is no text to train a tokenizer on: the input is empty"));
    }
    let mut trainer = Trainer::new(&words)?;
    drop(words);
    let wanted = vocab_size - 257;
    let mut merges = Vec::new();
    while merges.len() < wanted {
        let Some((left, right)) = trainer.best_pair() else { break };
        merges.push((left, right, trainer.merge(left, right)));
        progress(merges.len(), wanted);
    }
    let mut byte_ids = [0; 256];
    for (id, byte) in gpt2_byte_order().into_iter().enumerate() {
        byte_ids[byte as usize] = id as u32;
    }
    let mut tokens: Vec<Option<Box<[u8]>>> = trainer.tokens.iter().map(|t| Some(Box::from(&t[..]))).collect();
    let eot = tokens.len() as u32;
    tokens.push(Some(END_OF_TEXT.as_bytes().into()));
    let added = vec![Added { content: END_OF_TEXT.into(), id: eot, special: true }];
    Ok(Tokenizer::from_bpe(Bpe::new(tokens, merges, added, byte_ids), "bpe", Some(eot)))
}

type Counts = FxHashMap<Box<[u8]>, u64>;

/// Distinct words with their counts, sorted by their bytes.
fn count_words(texts: &mut dyn Iterator<Item = Result<String>>) -> Result<Vec<(Box<[u8]>, u64)>> {
    let mut counts = Counts::default();
    let (mut round, mut bytes) = (Vec::new(), 0);
    loop {
        let text = texts.next().transpose()?;
        let last = text.is_none();
        if let Some(text) = text {
            bytes += text.len();
            round.push(text);
        }
        if bytes >= ROUND || last {
            let pieces: Vec<&str> = round.iter().flat_map(|text| split::pieces(text, SHARE)).collect();
            let shares: Vec<FxHashMap<&[u8], u64>> = pieces.par_iter().map(|piece| count_piece(piece)).collect();
            for share in shares {
                // Sums do not depend on the order of the hash map.
                share.into_iter().for_each(|(word, n)| match counts.get_mut(word) {
                    Some(count) => *count += n,
                    None => drop(counts.insert(word.into(), n)),
                });
            }
            round.clear();
            bytes = 0;
        }
        if last {
            break;
        }
    }
    let mut words: Vec<_> = counts.into_iter().collect();
    words.par_sort_unstable();
    Ok(words)
}

fn count_piece(piece: &str) -> FxHashMap<&[u8], u64> {
    let mut counts = FxHashMap::default();
    for word in split::words(piece) {
        *counts.entry(word).or_insert(0) += 1;
    }
    counts
}

/// A pair with the count it had when it was queued. The greatest is merged first: the order of the fields is the rule.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    count: u64,
    left_bytes: Rc<[u8]>,
    right_bytes: Rc<[u8]>,
    pair: (u32, u32),
}

/// How often a pair stands in the corpus now, and every slot where its left token began when it came about.
#[derive(Default)]
struct Pair {
    count: u64,
    places: Vec<u32>,
}

struct Trainer {
    /// Bytes of each token.
    tokens: Vec<Rc<[u8]>>,
    ids: FxHashMap<Rc<[u8]>, u32>,
    /// The words, separated by `NONE`, with one at either end.
    slots: Vec<u32>,
    /// Where each word's separator after it stands, and the word's count; sorted.
    ends: Vec<(u32, u64)>,
    pairs: FxHashMap<(u32, u32), Pair>,
    heap: BinaryHeap<Candidate>,
}

impl Trainer {
    fn new(words: &[(Box<[u8]>, u64)]) -> Result<Self> {
        let order = gpt2_byte_order();
        let mut id_of_byte = [0u32; 256];
        for (id, &byte) in order.iter().enumerate() {
            id_of_byte[byte as usize] = id as u32;
        }
        let tokens: Vec<Rc<[u8]>> = order.iter().map(|&b| Rc::from([b])).collect();
        let ids = tokens.iter().enumerate().map(|(id, bytes)| (bytes.clone(), id as u32)).collect();
        // A word of one byte has no pair.
        let words = || words.iter().filter(|(word, _)| word.len() > 1);
        let size = 1 + words().map(|(word, _)| word.len() + 1).sum::<usize>();
        if size >= NONE as usize {
            return Err(Error::usage("the distinct words exceed 4 GB, more than the trainer holds; train on a sample"));
        }
        let mut trainer = Trainer {
            tokens,
            ids,
            slots: Vec::with_capacity(size),
            ends: Vec::new(),
            pairs: FxHashMap::default(),
            heap: BinaryHeap::new(),
        };
        trainer.slots.push(NONE);
        for (word, count) in words() {
            let start = trainer.slots.len();
            trainer.slots.extend(word.iter().map(|&b| id_of_byte[b as usize]));
            for at in start..trainer.slots.len() - 1 {
                let pair = trainer.pairs.entry((trainer.slots[at], trainer.slots[at + 1])).or_default();
                pair.count += count;
                pair.places.push(at as u32);
            }
            trainer.ends.push((trainer.slots.len() as u32, *count));
            trainer.slots.push(NONE);
        }
        let pairs: Vec<(u32, u32)> = trainer.pairs.keys().copied().collect();
        pairs.into_iter().for_each(|pair| trainer.queue(pair));
        Ok(trainer)
    }

    /// Puts a pair into the heap with its present count, unless it is too rare to be merged.
    fn queue(&mut self, pair: (u32, u32)) {
        match self.pairs.get(&pair) {
            Some(Pair { count, .. }) if *count >= 2 => self.heap.push(Candidate {
                count: *count,
                left_bytes: self.tokens[pair.0 as usize].clone(),
                right_bytes: self.tokens[pair.1 as usize].clone(),
                pair,
            }),
            Some(Pair { count: 0, .. }) => drop(self.pairs.remove(&pair)),
            _ => {}
        }
    }

    /// The most frequent pair, by the rule for ties; `None` when none occurs twice.
    fn best_pair(&mut self) -> Option<(u32, u32)> {
        loop {
            let top = self.heap.pop()?;
            match self.pairs.get(&top.pair) {
                Some(pair) if pair.count == top.count => return Some(top.pair),
                // It has lost occurrences to other merges since: it goes back to where it belongs.
                Some(pair) if pair.count < top.count => self.queue(top.pair),
                _ => {}
            }
        }
    }

    /// Joins every `left` `right` into one token, and returns it.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        let bytes: Rc<[u8]> = [&self.tokens[left as usize][..], &self.tokens[right as usize][..]].concat().into();
        // Should two merges ever spell the same bytes, they share the token.
        let new = *self.ids.entry(bytes.clone()).or_insert(self.tokens.len() as u32);
        if new as usize == self.tokens.len() {
            self.tokens.push(bytes);
        }
        let (left_len, right_len) = (self.tokens[left as usize].len(), self.tokens[right as usize].len());
        let Some(Pair { mut places, .. }) = self.pairs.remove(&(left, right)) else { return new };
        // From left to right: it matters where a pair overlaps itself (a a a). The lists are nearly always sorted already.
        if !places.is_sorted() {
            places.sort_unstable();
        }
        let mut created: FxHashSet<(u32, u32)> = FxHashSet::default();
        for start in places.into_iter().map(|place| place as usize) {
            let middle = start + left_len;
            // A place is stale once an earlier merge has taken one of the two.
            if self.slots[start] != left || self.slots[middle] != right {
                continue;
            }
            let end = middle + right_len;
            let weight = self.weight(start);
            let (before, after) = (self.slots[start - 1], self.slots[end]);
            self.slots[middle - 1] = NONE;
            self.slots[middle] = NONE;
            self.slots[start] = new;
            self.slots[end - 1] = new;
            if before != NONE {
                self.lose((before, left), weight);
                let place = start - self.tokens[before as usize].len();
                self.gain((before, new), place, weight, &mut created);
            }
            if after != NONE {
                self.lose((right, after), weight);
                self.gain((new, after), start, weight, &mut created);
            }
        }
        // The heap's order is total, so the order of insertion does not matter.
        created.into_iter().for_each(|pair| self.queue(pair));
        new
    }

    /// The count of the word that holds slot `at`.
    fn weight(&self, at: usize) -> u64 {
        self.ends[self.ends.partition_point(|&(end, _)| (end as usize) < at)].1
    }

    fn lose(&mut self, pair: (u32, u32), weight: u64) {
        // The pair being merged is out of the table already.
        if let Some(pair) = self.pairs.get_mut(&pair) {
            pair.count -= weight;
        }
    }

    fn gain(&mut self, pair: (u32, u32), place: usize, weight: u64, created: &mut FxHashSet<(u32, u32)>) {
        let known = self.pairs.entry(pair).or_default();
        known.count += weight;
        known.places.push(place as u32);
        created.insert(pair);
    }
}
