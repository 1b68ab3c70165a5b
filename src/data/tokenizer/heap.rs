//! A heap whose order is looked up elsewhere.
//!
//! Which of two pairs is merged first may depend on the bytes of their tokens. The standard library's heap would need those
//! bytes in each of millions of entries; this one is told the order with every call.

/// A binary heap; `before(a, b)` says whether `a` is to come out ahead of `b`, and must be the same strict total order
/// in all calls.
pub(super) struct Heap<T>(Vec<T>);

impl<T: Copy> Heap<T> {
    /// A heap of these entries.
    pub fn new(entries: Vec<T>, before: impl Fn(&T, &T) -> bool) -> Self {
        let mut heap = Heap(entries);
        (0..heap.0.len() / 2).rev().for_each(|at| heap.sink(at, &before));
        heap
    }

    pub fn push(&mut self, entry: T, before: impl Fn(&T, &T) -> bool) {
        let mut at = self.0.len();
        self.0.push(entry);
        while at > 0 && before(&entry, &self.0[(at - 1) / 2]) {
            self.0[at] = self.0[(at - 1) / 2];
            at = (at - 1) / 2;
        }
        self.0[at] = entry;
    }

    /// Takes the first entry.
    pub fn pop(&mut self, before: impl Fn(&T, &T) -> bool) -> Option<T> {
        if self.0.is_empty() {
            return None;
        }
        let first = self.0.swap_remove(0);
        self.sink(0, &before);
        Some(first)
    }

    /// Moves the entry at `at` down to where it belongs.
    fn sink(&mut self, mut at: usize, before: &impl Fn(&T, &T) -> bool) {
        let Some(&entry) = self.0.get(at) else { return };
        loop {
            let mut child = 2 * at + 1;
            if child + 1 < self.0.len() && before(&self.0[child + 1], &self.0[child]) {
                child += 1;
            }
            if child >= self.0.len() || !before(&self.0[child], &entry) {
                break;
            }
            self.0[at] = self.0[child];
            at = child;
        }
        self.0[at] = entry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_come_out_in_order(start: Vec<u16>, later: Vec<u16>) {
            let before = |a: &u16, b: &u16| a > b;
            let mut heap = Heap::new(start.clone(), before);
            later.iter().for_each(|&entry| heap.push(entry, before));
            let mut sorted = [start, later].concat();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let popped: Vec<u16> = std::iter::from_fn(|| heap.pop(before)).collect();
            prop_assert_eq!(popped, sorted);
        }
    }
}
