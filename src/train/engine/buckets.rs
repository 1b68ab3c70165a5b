//! Buckets: neighbouring gradients of the arena that are sent together, as soon as the last of them is complete.
//!
//! Backward completes parameters from the end of the arena to its start, more or less: buckets are cut in that order,
//! and are sent in it, on every rank alike, whatever the order in which they become complete. A tied token embedding
//! stands first in the arena and is complete last; so does what nobody has used, which no hook tells of.

use std::ops::Range;

use crate::tape::{Layout, ParamId};

/// How the flat buffer of gradients is cut.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Buckets {
    /// The elements of each bucket, the first to be sent first; together they cover the buffer.
    ranges: Vec<Range<usize>>,
    /// The bucket of each parameter; `None` where it is not trained.
    of: Vec<Option<usize>>,
}

impl Buckets {
    /// Buckets of whole parameters that have `least` elements or more, all but the last.
    pub fn new(layout: &Layout, least: usize) -> Buckets {
        let mut buckets = Buckets { ranges: Vec::new(), of: vec![None; layout.infos().len()] };
        let mut end = layout.trained();
        for (index, info) in layout.infos().iter().enumerate().rev() {
            if !layout.is_trained(ParamId(index)) {
                continue;
            }
            buckets.of[index] = Some(buckets.ranges.len());
            let start = info.offset - layout.frozen();
            if end - start >= least || start == 0 {
                buckets.ranges.push(start..end);
                end = start;
            }
        }
        buckets
    }

    /// The elements of each bucket.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// A pass in which nothing is complete yet.
    pub fn pass(&self) -> BucketPass<'_> {
        let mut missing = vec![0; self.ranges.len()];
        self.of.iter().flatten().for_each(|&bucket| missing[bucket] += 1);
        BucketPass { buckets: self, missing, next: 0 }
    }
}

/// Which buckets of a backward pass may be sent.
pub(super) struct BucketPass<'b> {
    buckets: &'b Buckets,
    /// How many parameters of each bucket are not complete.
    missing: Vec<usize>,
    /// The first bucket that was not given out.
    next: usize,
}

impl BucketPass<'_> {
    /// A parameter is complete: the buckets that may be sent now.
    pub fn complete(&mut self, id: ParamId) -> Range<usize> {
        if let Some(bucket) = self.buckets.of[id.0] {
            self.missing[bucket] -= 1;
        }
        let first = self.next;
        while self.missing.get(self.next) == Some(&0) {
            self.next += 1;
        }
        first..self.next
    }

    /// The pass is over: the buckets that are left.
    pub fn rest(&mut self) -> Range<usize> {
        let first = std::mem::replace(&mut self.next, self.missing.len());
        first..self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let mut layout = Layout::default();
        layout.push("frozen", &[100]);
        layout.freeze();
        for (name, len) in [("wte", 40), ("a", 16), ("b", 3), ("c", 20), ("norm", 5)] {
            layout.push(name, &[len]);
        }
        layout
    }

    #[test]
    fn buckets_cover_the_buffer_from_its_end() {
        let cut = |least| Buckets::new(&layout(), least).ranges().to_vec();
        // Gaps belong to the parameter before them.
        assert_eq!(cut(1), [112..128, 80..112, 64..80, 48..64, 0..48]);
        assert_eq!(cut(33), [80..128, 0..80]);
        assert_eq!(cut(1000), vec![0..128]);
        assert!(Buckets::new(&Layout::default(), 5).ranges().is_empty());
    }

    #[test]
    fn buckets_leave_in_their_order_and_each_once() {
        let buckets = Buckets::new(&layout(), 1);
        let mut pass = buckets.pass();
        let [frozen, wte, a, b, c, norm] = [0, 1, 2, 3, 4, 5].map(ParamId);
        assert_eq!(pass.complete(frozen), 0..0);
        // A later bucket waits for those before it.
        assert_eq!(pass.complete(c), 0..0);
        assert_eq!(pass.complete(norm), 0..2);
        assert_eq!(pass.complete(b), 2..3);
        assert_eq!(pass.complete(wte), 3..3);
        assert_eq!(pass.complete(a), 3..5);
        assert_eq!(pass.rest(), 5..5);
        // What no hook tells of leaves in the end.
        let mut pass = buckets.pass();
        assert_eq!(pass.complete(norm), 0..1);
        assert_eq!(pass.rest(), 1..5);
    }
}
