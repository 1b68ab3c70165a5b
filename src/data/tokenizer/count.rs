//! Counting the words of a text, on all threads, in memory that grows with the distinct words only.
//!
//! The calling thread reads, the others count, each into its own table, and the tables are added up at the end: a sum
//! does not depend on who counted what. Words of up to fifteen bytes are counted by their numbers (see
//! [`short`](super::short)) in an open table, one cache line touched a word; the few longer ones in an ordinary map.

use rustc_hash::FxHashMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::{short, split};
use crate::error::Result;

/// Bytes of text that a thread takes at a time; texts longer than this are shared out.
const SHARE: usize = 1 << 20;

/// Bytes and counts of some distinct words, in an order that says nothing.
#[derive(Default)]
pub(super) struct Words {
    bytes: Vec<u8>,
    /// Where each word ends, and how often it occurs.
    ends: Vec<(usize, u64)>,
}

impl Words {
    fn push(&mut self, word: &[u8], count: u64) {
        self.bytes.extend_from_slice(word);
        self.ends.push((self.bytes.len(), count));
    }

    /// The words with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let mut start = 0;
        self.ends.iter().map(move |&(end, count)| (&self.bytes[std::mem::replace(&mut start, end)..end], count))
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// A part of a text, for a thread to count.
type Share = (Arc<str>, Range<usize>);

/// The distinct words of `texts` with their counts, by as many threads as the current rayon pool has.
pub(super) fn count_words(texts: &mut dyn Iterator<Item = Result<String>>) -> Result<Words> {
    let threads = rayon::current_num_threads();
    let (sender, shares) = sync_channel::<Share>(2 * threads);
    let shares = Mutex::new(shares);
    let tables = std::thread::scope(|scope| {
        let counting: Vec<_> = (0..threads).map(|_| scope.spawn(|| count_shares(&shares))).collect();
        // The sender goes with this closure, and then the counting ends.
        let read = (move || -> Result<()> {
            for text in texts {
                let text: Arc<str> = text?.into();
                let mut start = 0;
                for piece in split::pieces(&text, SHARE) {
                    let range = start..start + piece.len();
                    start = range.end;
                    // Nobody takes it only if the threads have panicked, which the join below tells.
                    let _ = sender.send((text.clone(), range));
                }
            }
            Ok(())
        })();
        let tables: Vec<Table> = counting
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        read.map(|()| tables)
    })?;
    Ok(add_up(tables))
}

fn count_shares(shares: &Mutex<Receiver<Share>>) -> Table {
    let mut table = Table::new();
    loop {
        let share = shares.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((text, range)) = share else { return table };
        let text = &text[range];
        let mut words = split::words(text);
        while let Some(range) = words.next_range() {
            match short::key(text.as_bytes(), range.clone()) {
                Some(key) => table.add(key, 1),
                None => table.add_long(&text.as_bytes()[range], 1),
            }
        }
    }
}

fn add_up(tables: Vec<Table>) -> Words {
    let mut tables = tables.into_iter();
    let mut sum = tables.next().unwrap_or_else(Table::new);
    for table in tables {
        table.slots.iter().filter(|slot| slot.key != 0).for_each(|slot| sum.add(slot.key, slot.count));
        // Sums do not depend on the order of the hash map.
        table.long.iter().for_each(|(word, &count)| sum.add_long(word, count));
    }
    let mut words = Words::default();
    for slot in sum.slots.iter().filter(|slot| slot.key != 0) {
        let (bytes, length) = short::bytes(slot.key);
        words.push(&bytes[..length], slot.count);
    }
    // The order of the words does not show: see `Words`.
    sum.long.iter().for_each(|(word, &count)| words.push(word, count));
    words
}

/// Counts of words.
struct Table {
    /// A power of two of places, at most half of them taken; each word stands at the first free one from its hash on.
    slots: Vec<Slot>,
    taken: usize,
    long: FxHashMap<Box<[u8]>, u64>,
}

#[derive(Clone, Copy)]
struct Slot {
    /// 0 where there is no word.
    key: u128,
    count: u64,
}

impl Slot {
    const EMPTY: Slot = Slot { key: 0, count: 0 };
}

impl Table {
    fn new() -> Self {
        Table { slots: vec![Slot::EMPTY; 1 << 14], taken: 0, long: FxHashMap::default() }
    }

    #[inline(always)]
    fn add(&mut self, key: u128, count: u64) {
        let slot = self.find(key);
        slot.count += count;
        if slot.key == 0 {
            slot.key = key;
            self.taken += 1;
            if 2 * self.taken > self.slots.len() {
                self.grow();
            }
        }
    }

    /// The place of a word, or the free one that it is to have.
    #[inline(always)]
    fn find(&mut self, key: u128) -> &mut Slot {
        let mask = self.slots.len() - 1;
        let mut at = short::hash(key) as usize & mask;
        while self.slots[at].key != key && self.slots[at].key != 0 {
            at = (at + 1) & mask;
        }
        &mut self.slots[at]
    }

    #[cold]
    fn grow(&mut self) {
        let slots = vec![Slot::EMPTY; 2 * self.slots.len()];
        for slot in std::mem::replace(&mut self.slots, slots).into_iter().filter(|slot| slot.key != 0) {
            *self.find(slot.key) = slot;
        }
    }

    fn add_long(&mut self, word: &[u8], count: u64) {
        match self.long.get_mut(word) {
            Some(known) => *known += count,
            None => drop(self.long.insert(word.into(), count)),
        }
    }
}
