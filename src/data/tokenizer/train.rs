//! Training byte-level BPE vocabularies (Sennrich et al., 2016), exactly and fast.
//!
//! Words (GPT-2's split) are counted once, in parallel (see [`count`](super::count)); then the most frequent adjacent pair
//! becomes a token, again and again. [`Ties`] says which of equally frequent pairs goes first, so the outcome is a pure
//! function of the word counts: no thread, no hash and no document order has a say in it.
//!
//! The distinct words lie end to end in one array, one slot a byte. A token stands at its first *and* its last slot, so
//! that both neighbours of any token are found by its length alone: that is all the linked list there is. Each pair keeps
//! the places where it came about, and a merge visits only those. It gathers what its neighbours gain and lose by neighbour,
//! so that the table of pairs is asked once for each of them, not for each place; and the heap of pairs is corrected when
//! a stale count comes to its top.
//!
//! A pair only ever comes about while the newer of its tokens is made: the merges inside a stretch of text that ends as
//! one token are the same wherever it stands, so no token is made twice. Hence a pair that is too rare then is too rare
//! for good, and most pairs are forgotten at once.
//!
//! Ids are GPT-2's: 256 bytes in the order of its alphabet, merges in order, and `<|endoftext|>` last.

use rustc_hash::FxHashMap;

use super::alphabet::gpt2_byte_order;
use super::bpe::{Added, Bpe};
use super::count::{Words, count_words};
use super::heap::Heap;
use super::{END_OF_TEXT, Tokenizer};
use crate::error::{Error, Result};

/// Stands between words, and in slots that no token begins or ends at.
const NONE: u32 = u32::MAX;

/// Which of equally frequent pairs is merged first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ties {
    /// The one with the greater left token, then the greater right one, compared byte by byte: the rule of the first BPE
    /// trainers in Python, which takes no notice of ids.
    #[default]
    GreaterBytes,
    /// The one with the smaller left id, then the smaller right one: the rule of the `tokenizers` crate, for the merges
    /// that its trainer makes of the same texts with `min_frequency` 2.
    SmallerIds,
}

/// Trains a byte-level BPE vocabulary of `vocab_size` ids (256 bytes, merges, `<|endoftext|>`) on `texts`; no word crosses
/// from one text into the next. `progress(done, total)` is called after each merge. When no pair occurs twice any more, the
/// vocabulary is smaller than asked: compare [`Tokenizer::vocab_size`]. Ties go by [`Ties::GreaterBytes`].
///
/// # Errors
/// `Usage` if there is no text at all, more distinct words than the trainer holds, or a size below 257; and the first error
/// of `texts`.
pub fn train_bpe(
    texts: &mut dyn Iterator<Item = Result<String>>,
    vocab_size: usize,
    progress: &dyn Fn(usize, usize),
) -> Result<Tokenizer> {
    train_bpe_with(texts, vocab_size, Ties::default(), progress)
}

/// As [`train_bpe`], with another rule for ties.
///
/// # Errors
/// As [`train_bpe`].
pub fn train_bpe_with(
    texts: &mut dyn Iterator<Item = Result<String>>,
    vocab_size: usize,
    ties: Ties,
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
    let mut trainer = Trainer::new(&words, ties)?;
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
    let mut tokens: Vec<Option<Box<[u8]>>> = trainer.tokens.into_iter().map(Some).collect();
    let eot = tokens.len() as u32;
    tokens.push(Some(END_OF_TEXT.as_bytes().into()));
    let added = vec![Added { content: END_OF_TEXT.into(), id: eot, special: true }];
    Ok(Tokenizer::from_bpe(Bpe::new(tokens, merges, added, byte_ids), "bpe", Some(eot)))
}

/// One byte of one word.
#[derive(Clone, Copy)]
struct Slot {
    /// The token that begins or ends here.
    token: u32,
    word: u32,
}

/// A pair with the count it had when it was queued.
#[derive(Clone, Copy)]
struct Candidate {
    count: u64,
    pair: (u32, u32),
}

/// How often a pair stands in the corpus now, and every slot where its left token began when it came about, in order.
struct Pair {
    count: u64,
    places: Vec<u32>,
}

struct Trainer {
    /// Bytes of each token.
    tokens: Vec<Box<[u8]>>,
    /// The words, with a `NONE` between any two and at either end.
    slots: Vec<Slot>,
    /// How often each word occurs.
    counts: Vec<u64>,
    pairs: FxHashMap<(u32, u32), Pair>,
    heap: Heap<Candidate>,
    ties: Ties,
    before: Neighbours,
    after: Neighbours,
}

impl Trainer {
    fn new(words: &Words, ties: Ties) -> Result<Self> {
        let order = gpt2_byte_order();
        let mut id_of_byte = [0u32; 256];
        for (id, &byte) in order.iter().enumerate() {
            id_of_byte[byte as usize] = id as u32;
        }
        // A word of one byte has no pair.
        let words = || words.iter().filter(|(word, _)| word.len() > 1);
        let size = 1 + words().map(|(word, _)| word.len() + 1).sum::<usize>();
        if size >= NONE as usize {
            return Err(Error::usage("the distinct words exceed 4 GB, more than the trainer holds; train on a sample"));
        }
        let (mut slots, mut counts) = (Vec::with_capacity(size), Vec::new());
        slots.push(Slot { token: NONE, word: 0 });
        for (word, count) in words() {
            let number = counts.len() as u32;
            slots.extend(word.iter().map(|&b| Slot { token: id_of_byte[b as usize], word: number }));
            slots.push(Slot { token: NONE, word: number });
            counts.push(count);
        }
        let mut trainer = Trainer {
            tokens: order.iter().map(|&b| Box::from([b])).collect(),
            slots,
            counts,
            pairs: FxHashMap::default(),
            heap: Heap::new(Vec::new(), |_, _| false),
            ties,
            before: Neighbours::default(),
            after: Neighbours::default(),
        };
        // Each byte in turn as the left one.
        let mut places: Vec<Vec<u32>> = vec![Vec::new(); 256];
        for (place, slot) in trainer.slots.iter().enumerate().filter(|(_, slot)| slot.token != NONE) {
            places[slot.token as usize].push(place as u32);
        }
        for (left, places) in places.into_iter().enumerate() {
            for place in places {
                let (right, weight) = (trainer.slots[place as usize + 1].token, trainer.weight(place as usize));
                if right != NONE {
                    trainer.after.add(right, place as usize, weight);
                }
            }
            let mut after = std::mem::take(&mut trainer.after);
            trainer.gain(&mut after, |right| (left as u32, right));
            trainer.after = after;
        }
        Ok(trainer)
    }

    /// Whether `a` is merged before `b`.
    fn order<'a>(ties: Ties, tokens: &'a [Box<[u8]>]) -> impl Fn(&Candidate, &Candidate) -> bool + 'a {
        move |a, b| {
            a.count > b.count
                || a.count == b.count
                    && match ties {
                        Ties::SmallerIds => a.pair < b.pair,
                        Ties::GreaterBytes => {
                            let bytes = |c: &Candidate| (&tokens[c.pair.0 as usize], &tokens[c.pair.1 as usize]);
                            bytes(a) > bytes(b)
                        }
                    }
        }
    }

    /// The most frequent pair, by the rule for ties; `None` when none occurs twice.
    fn best_pair(&mut self) -> Option<(u32, u32)> {
        let before = Self::order(self.ties, &self.tokens);
        loop {
            let top = self.heap.pop(&before)?;
            let count = self.pairs.get(&top.pair).map_or(0, |pair| pair.count);
            if count == top.count {
                return Some(top.pair);
            }
            // It has lost occurrences to other merges since: it goes back to where it belongs.
            if count >= 2 {
                self.heap.push(Candidate { count, ..top }, &before);
            } else {
                self.pairs.remove(&top.pair);
            }
        }
    }

    /// Joins every `left` `right` into one token, and returns it.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        let new = self.tokens.len() as u32;
        self.tokens.push([&self.tokens[left as usize][..], &self.tokens[right as usize][..]].concat().into());
        let Some(Pair { places, .. }) = self.pairs.remove(&(left, right)) else { return new };
        let length = |tokens: &[Box<[u8]>], id: u32| tokens[id as usize].len();
        let (left_len, right_len) = (length(&self.tokens, left), length(&self.tokens, right));
        let (mut before, mut after) = (std::mem::take(&mut self.before), std::mem::take(&mut self.after));
        // From left to right: it matters where a pair overlaps itself (a a a).
        debug_assert!(places.is_sorted());
        for start in places.into_iter().map(|place| place as usize) {
            let middle = start + left_len;
            // A place is stale once an earlier merge has taken one of the two.
            if self.slots[start].token != left || self.slots[middle].token != right {
                continue;
            }
            let end = middle + right_len;
            let weight = self.weight(start);
            self.slots[middle - 1].token = NONE;
            self.slots[middle].token = NONE;
            self.slots[start].token = new;
            self.slots[end - 1].token = new;
            let neighbour = self.slots[start - 1].token;
            if neighbour != NONE {
                before.add(neighbour, start - length(&self.tokens, neighbour), weight);
                if neighbour == new {
                    // Its right neighbour was `left` when it was made, and is no longer.
                    after.cancel(left, weight);
                }
            }
            let neighbour = self.slots[end].token;
            if neighbour != NONE {
                after.add(neighbour, start, weight);
            }
        }
        // What is lost first: it must not be taken from what is only now gained.
        self.lose(&before, |token| (token, left));
        self.lose(&after, |token| (right, token));
        self.gain(&mut before, |token| (token, new));
        self.gain(&mut after, |token| (new, token));
        (self.before, self.after) = (before, after);
        new
    }

    /// How often the word that holds slot `at` occurs.
    fn weight(&self, at: usize) -> u64 {
        self.counts[self.slots[at].word as usize]
    }

    /// Takes the occurrences with each neighbour from the pair that `pair` makes of it.
    fn lose(&mut self, neighbours: &Neighbours, pair: impl Fn(u32) -> (u32, u32)) {
        for total in &neighbours.totals {
            // Unknown are the pair that is being merged, and those that were too rare.
            if let Some(known) = self.pairs.get_mut(&pair(total.token)) {
                known.count -= total.weight;
            }
        }
    }

    /// Enters the pair that `pair` makes of each neighbour, unless it is too rare, and empties the list.
    fn gain(&mut self, neighbours: &mut Neighbours, pair: impl Fn(u32) -> (u32, u32)) {
        let kept = |total: &Total| total.weight - total.cancelled >= 2;
        let room = |total: &Total| if kept(total) { total.places as usize } else { 0 };
        let mut lists: Vec<Vec<u32>> = neighbours.totals.iter().map(|total| Vec::with_capacity(room(total))).collect();
        for (number, place) in neighbours.places.drain(..) {
            let list = &mut lists[number as usize];
            if list.capacity() > 0 {
                list.push(place);
            }
        }
        for (total, places) in neighbours.totals.drain(..).zip(lists) {
            neighbours.numbers[total.token as usize] = NONE;
            if kept(&total) {
                let (pair, count) = (pair(total.token), total.weight - total.cancelled);
                self.pairs.insert(pair, Pair { count, places });
                self.heap.push(Candidate { count, pair }, Self::order(self.ties, &self.tokens));
            }
        }
    }
}

/// What stands next to the occurrences of a pair while it is merged: by token, and where.
#[derive(Default)]
struct Neighbours {
    /// The place in `totals` of each token, or `NONE`.
    numbers: Vec<u32>,
    totals: Vec<Total>,
    /// A place in `totals`, and the slot at which the pair with that neighbour begins.
    places: Vec<(u32, u32)>,
}

struct Total {
    token: u32,
    places: u32,
    /// Occurrences, by how often their words occur, and how many of them were gone again before the merge was done.
    weight: u64,
    cancelled: u64,
}

impl Neighbours {
    fn add(&mut self, token: u32, place: usize, weight: u64) {
        if token as usize >= self.numbers.len() {
            self.numbers.resize(token as usize + 1, NONE);
        }
        let number = &mut self.numbers[token as usize];
        if *number == NONE {
            *number = self.totals.len() as u32;
            self.totals.push(Total { token, places: 0, weight: 0, cancelled: 0 });
        }
        let total = &mut self.totals[*number as usize];
        total.weight += weight;
        total.places += 1;
        self.places.push((*number, place as u32));
    }

    /// `weight` of the occurrences of `token`, which is among them, are gone.
    fn cancel(&mut self, token: u32, weight: u64) {
        self.totals[self.numbers[token as usize] as usize].cancelled += weight;
    }
}
