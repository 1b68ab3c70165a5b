//! What an encoding thread remembers: words it has seen, with their ids.
//!
//! Two tables, both as large as a core's own cache, so that remembering never costs more than merging anew. Words of up to
//! fifteen bytes and three ids, nearly all of a text, stand in sets of two that fill a cache line: of the two the one used
//! last stays. Longer ones stand in a small table where the newest wins. What is remembered decides speed, never ids.
//!
//! The caches belong to their vocabulary, which lends one to each encoding call: no word of another vocabulary is ever
//! in it.

use std::sync::Mutex;

use super::short;

/// The words of one thread.
pub(super) struct Cache {
    sets: Box<[Set]>,
    long: Box<[Long]>,
}

/// Two short words: a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Set {
    /// 0 where there is no word.
    keys: [u128; 2],
    ids: [Ids; 2],
}

/// The ids of a short word, and last how many of them count.
pub(super) type Ids = [u32; 4];

/// One long word: a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Long {
    length: u8,
    count: u8,
    word: [u8; Long::WORD],
    ids: [u32; Long::IDS],
}

impl Long {
    const WORD: usize = 34;
    const IDS: usize = 7;
}

impl Cache {
    const SETS: usize = 1 << 15;
    const LONG: usize = 1 << 12;

    fn new() -> Self {
        let long = Long { length: 0, count: 0, word: [0; Long::WORD], ids: [0; Long::IDS] };
        Cache {
            sets: vec![Set { keys: [0; 2], ids: [[0; 4]; 2] }; Self::SETS].into(),
            long: vec![long; Self::LONG].into(),
        }
    }

    /// The ids of a short word, if they are known.
    #[inline(always)]
    pub fn short(&mut self, key: u128) -> Option<&Ids> {
        let set = &mut self.sets[short::hash(key) as usize % Self::SETS];
        if set.keys[0] != key {
            if set.keys[1] != key {
                return None;
            }
            set.keys.swap(0, 1);
            set.ids.swap(0, 1);
        }
        Some(&set.ids[0])
    }

    /// Remembers a short word, unless it has too many ids; `None` then.
    pub fn remember_short(&mut self, key: u128, ids: &[u32]) -> Option<()> {
        let mut padded = [0; 4];
        padded[..3].get_mut(..ids.len())?.copy_from_slice(ids);
        padded[3] = ids.len() as u32;
        let set = &mut self.sets[short::hash(key) as usize % Self::SETS];
        (set.keys[1], set.ids[1]) = (set.keys[0], set.ids[0]);
        (set.keys[0], set.ids[0]) = (key, padded);
        Some(())
    }

    /// The ids of a word that is long, or has many; `None` if they are not known.
    pub fn long(&self, word: &[u8]) -> Option<&[u32]> {
        let slot = &self.long[long_hash(word) as usize % Self::LONG];
        let same = slot.length as usize == word.len() && slot.word.get(..word.len()) == Some(word);
        same.then(|| &slot.ids[..slot.count as usize])
    }

    /// Remembers such a word, unless it or its ids are too many.
    pub fn remember_long(&mut self, word: &[u8], ids: &[u32]) {
        if word.len() <= Long::WORD && ids.len() <= Long::IDS {
            let slot = &mut self.long[long_hash(word) as usize % Self::LONG];
            (slot.length, slot.count) = (word.len() as u8, ids.len() as u8);
            slot.word[..word.len()].copy_from_slice(word);
            slot.ids[..ids.len()].copy_from_slice(ids);
        }
    }
}

/// By the ends of the word and its length.
fn long_hash(word: &[u8]) -> u64 {
    let key = |from: usize| {
        let end = word.len().min(from + short::SHORT);
        short::key(word, from..end).unwrap_or_default()
    };
    let middle = word.len().saturating_sub(short::SHORT);
    short::hash(key(0)) ^ short::hash(key(middle)).rotate_left(29) ^ (word.len() as u64).wrapping_mul(0x9E37_79B9)
}

/// The caches of one vocabulary that no call is using.
#[derive(Default)]
pub(super) struct Caches(Mutex<Vec<Cache>>);

impl Caches {
    /// Calls `work` with a cache of its own.
    pub fn with<T>(&self, work: impl FnOnce(&mut Cache) -> T) -> T {
        // A list of caches is whole whatever its holder did.
        let free = || self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        let known = free().pop();
        let mut cache = known.unwrap_or_else(Cache::new);
        let done = work(&mut cache);
        free().push(cache);
        done
    }
}
