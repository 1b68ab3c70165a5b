//! Conversations packed into rows of the context's length, several in a row where they fit.
//!
//! Each is placed in the first open row that has room for it, of at most `OPEN` rows; attention does not reach across
//! them and positions start again in each, so what shares a row changes nothing but the order of data. A conversation
//! of N tokens takes N - 1 places: its last token is only a target. One that is longer than the context is cut at its
//! end; if nothing that the model should learn is left of it, it is dropped. The order, and with it the packing, is a
//! function of the seed: no state has to be saved.

use std::sync::Arc;

use crate::data::batch::{Batch, IGNORE};
use crate::data::chat::conversation::Conversations;
use crate::error::{Error, Result};
use crate::random::Permutation;

/// Rows that wait for a conversation that fits.
const OPEN: usize = 64;

/// The epoch under which the order of packing is drawn: no epoch of training.
const PACKING: u64 = u64::MAX;

/// Rows of packed conversations.
#[derive(Debug)]
pub struct Packed {
    conversations: Arc<Conversations>,
    context_length: usize,
    /// Conversations in the order of the rows.
    order: Vec<u32>,
    /// Where each row ends in `order`.
    ends: Vec<u32>,
    /// Targets that count, of each row.
    targets: Vec<u32>,
    truncated: usize,
    dropped: usize,
}

impl Packed {
    /// Packs conversations into rows of `context_length` inputs, in their own order, or shuffled by a seed.
    ///
    /// # Errors
    /// `Usage` if there is nothing to learn from.
    pub fn new(conversations: Arc<Conversations>, context_length: usize, shuffle: Option<u64>) -> Result<Packed> {
        let count = conversations.len();
        let mut packed = Packed {
            conversations,
            context_length,
            order: Vec::with_capacity(count),
            ends: Vec::new(),
            targets: Vec::new(),
            truncated: 0,
            dropped: 0,
        };
        let permutation = shuffle.filter(|_| count > 0).map(|seed| Permutation::new(count as u64, seed, PACKING));
        let mut rows: Vec<(Vec<u32>, u32)> = Vec::new();
        // Rows with room: (row, places left), oldest first.
        let mut open: Vec<(usize, usize)> = Vec::new();
        for place in 0..count {
            let i = permutation.as_ref().map_or(place, |order| order.at(place as u64) as usize);
            let (inputs, targets) = packed.extent(i);
            if targets == 0 {
                packed.dropped += 1;
                continue;
            }
            packed.truncated += usize::from(packed.conversations.range(i).len() > context_length + 1);
            let at = match open.iter().position(|&(_, room)| room >= inputs) {
                Some(at) => at,
                None => {
                    if open.len() == OPEN {
                        open.remove(0);
                    }
                    rows.push((Vec::new(), 0));
                    open.push((rows.len() - 1, context_length));
                    open.len() - 1
                }
            };
            let (row, room) = &mut open[at];
            rows[*row].0.push(i as u32);
            rows[*row].1 += targets;
            *room -= inputs;
            if *room == 0 {
                open.remove(at);
            }
        }
        for (conversations, targets) in rows {
            packed.order.extend(conversations);
            packed.ends.push(packed.order.len() as u32);
            packed.targets.push(targets);
        }
        match packed.ends.is_empty() {
            true => Err(Error::usage(format!(
                "none of the {count} conversations has an answer within model.context_length = {context_length} tokens"
            ))),
            false => Ok(packed),
        }
    }

    /// Inputs of a conversation, and targets that count, within the context.
    fn extent(&self, i: usize) -> (usize, u32) {
        let range = self.conversations.range(i);
        let inputs = range.len().saturating_sub(1).min(self.context_length);
        let learn = &self.conversations.learn[range][usize::from(inputs > 0)..];
        (inputs, learn[..inputs].iter().map(|&learn| u32::from(learn)).sum())
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Inputs of a row, those that fill it up included.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Targets that count, of one row: at least one.
    pub fn targets_of(&self, row: u64) -> u64 {
        u64::from(self.targets[row as usize])
    }

    /// Targets that count, of all rows.
    pub fn targets(&self) -> u64 {
        self.targets.iter().map(|&targets| u64::from(targets)).sum()
    }

    /// Conversations that were packed.
    pub fn conversations(&self) -> usize {
        self.order.len()
    }

    /// Conversations that were cut at their end, and those of which nothing was left to learn.
    pub fn truncated_and_dropped(&self) -> (usize, usize) {
        (self.truncated, self.dropped)
    }

    /// The part of all places that hold conversations.
    pub fn fill_ratio(&self) -> f64 {
        let used: usize = self.order.iter().map(|&i| self.extent(i as usize).0).sum();
        used as f64 / (self.ends.len() * self.context_length) as f64
    }

    /// Appends one row. Places that no conversation fills hold token 0 in a document of their own, with nothing to learn.
    pub fn append(&self, row: u64, to: &mut Batch) {
        let row = row as usize;
        let first = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        let start = to.inputs.len();
        for &i in &self.order[first..self.ends[row] as usize] {
            let (inputs, _) = self.extent(i as usize);
            let range = self.conversations.range(i as usize);
            let begin = (to.inputs.len() - start) as u32;
            let (tokens, learn) = (&self.conversations.tokens[range.clone()], &self.conversations.learn[range]);
            to.inputs.extend_from_slice(&tokens[..inputs]);
            let target = |place: usize| if learn[place] == 1 { tokens[place] } else { IGNORE };
            to.targets.extend((1..=inputs).map(target));
            to.begins.resize(to.inputs.len(), begin);
        }
        let used = to.inputs.len() - start;
        to.inputs.resize(start + self.context_length, 0);
        to.targets.resize(start + self.context_length, IGNORE);
        to.begins.resize(start + self.context_length, used as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Conversations of these lengths: a prompt of `ask` tokens, then an answer. Token `10 i + j`.
    fn of(lengths: &[(usize, usize)]) -> Arc<Conversations> {
        let mut all = Conversations::default();
        for (i, &(ask, len)) in lengths.iter().enumerate() {
            all.tokens.extend((0..len).map(|j| (10 * i + j) as u32));
            all.learn.extend((0..len).map(|j| u8::from(j >= ask)));
            all.ends.push(all.tokens.len() as u64);
        }
        Arc::new(all)
    }

    #[test]
    fn conversations_share_rows_and_only_answers_count() {
        let packed = Packed::new(of(&[(2, 4), (1, 6), (1, 3), (9, 10), (3, 9)]), 6, None).unwrap();
        // 3 + 2 inputs in the first row; the fourth has no answer in 6 inputs, the fifth is cut.
        assert_eq!((packed.rows(), packed.conversations(), packed.truncated_and_dropped()), (3, 4, (1, 1)));
        let mut rows = Batch::default();
        packed.append(0, &mut rows);
        assert_eq!(rows.inputs, [0, 1, 2, 20, 21, 0]);
        assert_eq!(rows.targets, [IGNORE, 2, 3, 21, 22, IGNORE]);
        assert_eq!(rows.begins, [0, 0, 0, 3, 3, 5]);
        packed.append(2, &mut rows);
        assert_eq!(rows.inputs[6..], [40, 41, 42, 43, 44, 45]);
        assert_eq!(rows.targets[6..], [IGNORE, IGNORE, 43, 44, 45, 46]);
        assert_eq!((0..3).map(|row| packed.targets_of(row)).collect::<Vec<_>>(), [4, 5, 4]);
        assert_eq!(packed.targets(), 13);
        assert!((packed.fill_ratio() - 16.0 / 18.0).abs() < 1e-12);
        assert!(Packed::new(of(&[(9, 10), (1, 1)]), 6, None).is_err());
        assert!(Packed::new(of(&[]), 6, Some(1)).is_err());
    }

    #[test]
    fn a_seed_decides_the_order_and_every_conversation_is_there_once() {
        let lengths: Vec<(usize, usize)> = (0..500).map(|i| (1, 3 + i * 7 % 20)).collect();
        let order = |seed| Packed::new(of(&lengths), 32, seed).unwrap();
        let (one, two) = (order(Some(1)), order(Some(2)));
        assert_ne!(one.order, two.order);
        assert_eq!(one.order, order(Some(1)).order);
        for packed in [one, two, order(None)] {
            let mut seen = packed.order.clone();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..500));
            assert!(packed.fill_ratio() > 0.95, "{}", packed.fill_ratio());
        }
    }

    #[test]
    fn conversations_are_split_between_two() {
        let mut all = (*of(&[(1, 2), (1, 3), (1, 4)])).clone();
        let tail = all.split_off(1);
        assert_eq!((all.tokens.as_slice(), all.ends.as_slice()), (&[0, 1][..], &[2][..]));
        assert_eq!((tail.tokens.len(), tail.learn.len(), tail.ends.as_slice()), (7, 7, &[3, 7][..]));
        assert_eq!(all.split_off(1), Conversations::default());
    }
}
