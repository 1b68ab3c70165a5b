//! Sums over ranks whose bits do not depend on the number of ranks.
//!
//! Rank `r` of `p` holds the sum of the `r`-th aligned part of the lanes, a subtree of the binary tree of lanes. Here the
//! upper levels of that tree are added: every rank gets its shard of the buffer from all others (an all-to-all), adds the
//! `p` pieces in the fixed tree, and shards are gathered again. That moves the bytes of a ring's reduce-scatter and
//! all-gather. Recursive halving gives the same tree; the all-to-all needs one round in place of log2(p).

use std::ops::Range;

use super::{Call, Collective};
use crate::error::Result;

/// Shards start at a multiple of this many elements: the chunk over which the gradient norm sums in f32, so that each rank
/// can sum whole chunks.
pub const ALIGN: usize = 1 << 14;

/// Elements of a shard that are exchanged at once: it bounds the memory for what is received (4 MiB from each rank).
const BUCKET: usize = 1 << 20;

/// How a flat buffer is divided among ranks: consecutive ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// Where each range starts, and where the last ends.
    borders: Vec<usize>,
}

impl Shards {
    /// `len` elements among `parts` ranks, at boundaries that are multiples of `align`; all but the last ranges are
    /// equally long.
    pub fn new(len: usize, parts: usize, align: usize) -> Shards {
        let each = len.div_ceil(parts).next_multiple_of(align);
        Shards { borders: (0..=parts).map(|rank| (rank * each).min(len)).collect() }
    }

    /// `len` elements among `parts` ranks, at some of the boundaries `allowed` (ascending): those nearest to equal ranges.
    pub fn between(len: usize, parts: usize, allowed: &[usize]) -> Shards {
        let nearest = |rank: usize| {
            let even = rank * len / parts;
            let after = allowed.partition_point(|&at| at < even);
            let candidates = [after.checked_sub(1), Some(after)].into_iter().flatten();
            let found = candidates.filter_map(|index| allowed.get(index)).min_by_key(|&&at| at.abs_diff(even));
            found.copied().unwrap_or(len).min(len)
        };
        let mut borders: Vec<usize> = (0..=parts).map(nearest).collect();
        (borders[0], borders[parts]) = (0, len);
        Shards { borders }
    }

    /// The range of rank `rank`; empty where there is nothing left for it.
    pub fn range(&self, rank: usize) -> Range<usize> {
        self.borders[rank]..self.borders[rank + 1]
    }

    /// Piece `index` of rank `rank`'s range, of at most `most` elements.
    pub fn piece(&self, rank: usize, index: usize, most: usize) -> Range<usize> {
        piece(&self.range(rank), index, most)
    }

    /// The ranges of all ranks.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        self.borders.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }

    /// The same ranges of a buffer in which `first` elements stand before these.
    pub fn after(&self, first: usize) -> Shards {
        Shards { borders: self.borders.iter().map(|at| first + at).collect() }
    }

    /// What of each rank's range lies in `window`, counted from the start of that.
    pub fn within(&self, window: &Range<usize>) -> Vec<Range<usize>> {
        let place = |at: usize| at.clamp(window.start, window.end) - window.start;
        self.ranges().iter().map(|range| place(range.start)..place(range.end)).collect()
    }
}

/// Piece `index` of a range, of at most `most` elements.
pub fn piece(range: &Range<usize>, index: usize, most: usize) -> Range<usize> {
    let at = |index: usize| (range.start + index * most).min(range.end);
    at(index)..at(index + 1)
}

/// The numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// As they are.
    F32,
    /// Rounded to bf16: half the bytes. Sums are still made in f32, but their rounding depends on the number of ranks.
    Bf16,
}

/// Adds `data` over all ranks in the fixed tree; each rank has the sum of its range of `ranges` afterwards, and the
/// rest is as before.
///
/// # Errors
/// Those of the engine.
pub fn reduce_scatter(
    group: &dyn Collective,
    call: Call,
    data: &mut [f32],
    ranges: &[Range<usize>],
    wire: Wire,
) -> Result<()> {
    exchange(group, call, data, ranges, wire, BUCKET)
}

/// Gives every rank the shards of all ranks.
///
/// # Errors
/// Those of the engine.
pub fn all_gather(group: &dyn Collective, call: Call, data: &mut [f32], shards: &Shards, wire: Wire) -> Result<()> {
    if group.size() == 1 {
        return Ok(());
    }
    if wire == Wire::Bf16 {
        let own = to_bf16(&data[shards.range(group.rank())]);
        let mut all: Vec<Vec<u16>> = (0..group.size()).map(|rank| vec![0; shards.range(rank).len()]).collect();
        let mut slices: Vec<&mut [u8]> = all.iter_mut().map(|part| bytemuck::cast_slice_mut(part)).collect();
        group.all_gather(call, bytemuck::cast_slice(&own), &mut slices)?;
        for (rank, part) in all.iter().enumerate() {
            data[shards.range(rank)].iter_mut().zip(part).for_each(|(to, &from)| *to = from_bf16(from));
        }
        return Ok(());
    }
    let own = data[shards.range(group.rank())].to_vec();
    let mut rest = data;
    let mut slices: Vec<&mut [u8]> = Vec::with_capacity(group.size());
    for rank in 0..group.size() {
        let (part, after) = rest.split_at_mut(shards.range(rank).len());
        slices.push(bytemuck::cast_slice_mut(part));
        rest = after;
    }
    group.all_gather(call, bytemuck::cast_slice(&own), &mut slices)
}

/// Adds `data` over all ranks in the fixed tree; every rank has the whole sum afterwards.
///
/// # Errors
/// Those of the engine.
pub fn all_reduce(group: &dyn Collective, call: Call, data: &mut [f32], wire: Wire) -> Result<()> {
    let shards = Shards::new(data.len(), group.size(), 16);
    reduce_scatter(group, call, data, &shards.ranges(), wire)?;
    all_gather(group, call, data, &shards, wire)
}

/// The same sum of one number a rank: pairs, pairs of pairs, and so on. The slice has a power of two of elements.
pub fn tree_sum(values: &[f64]) -> f64 {
    match values {
        [] => 0.0,
        [one] => *one,
        _ => {
            let (left, right) = values.split_at(values.len() / 2);
            tree_sum(left) + tree_sum(right)
        }
    }
}

fn exchange(
    group: &dyn Collective,
    call: Call,
    data: &mut [f32],
    ranges: &[Range<usize>],
    wire: Wire,
    bucket: usize,
) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    if size == 1 {
        return Ok(());
    }
    assert!(size.is_power_of_two(), "a binary tree over {size} ranks");
    let mut received: Vec<Vec<f32>> = vec![Vec::new(); size];
    let pieces = ranges.iter().map(|range| range.len().div_ceil(bucket)).max().unwrap_or(0);
    for index in 0..pieces {
        let own = piece(&ranges[rank], index, bucket);
        match wire {
            Wire::F32 => {
                received.iter_mut().for_each(|part| part.resize(own.len(), 0.0));
                let send: Vec<&[u8]> =
                    (0..size).map(|to| bytemuck::cast_slice(&data[piece(&ranges[to], index, bucket)])).collect();
                let mut receive: Vec<&mut [u8]> =
                    received.iter_mut().map(|part| bytemuck::cast_slice_mut(part)).collect();
                group.all_to_all(call, &send, &mut receive)?;
            }
            Wire::Bf16 => {
                let narrow: Vec<Vec<u16>> =
                    (0..size).map(|to| to_bf16(&data[piece(&ranges[to], index, bucket)])).collect();
                let mut halves = vec![vec![0u16; own.len()]; size];
                let send: Vec<&[u8]> = narrow.iter().map(|part| bytemuck::cast_slice(part)).collect();
                let mut receive: Vec<&mut [u8]> =
                    halves.iter_mut().map(|part| bytemuck::cast_slice_mut(part)).collect();
                group.all_to_all(call, &send, &mut receive)?;
                for (part, half) in received.iter_mut().zip(&halves) {
                    *part = half.iter().map(|&value| from_bf16(value)).collect();
                }
            }
        }
        add_in_tree(&mut received);
        data[own].copy_from_slice(&received[0]);
    }
    Ok(())
}

/// Adds the parts of 2^k ranks pairwise, level by level; the sum is left in the first.
fn add_in_tree(parts: &mut [Vec<f32>]) {
    let mut step = 1;
    while step < parts.len() {
        for pair in parts.chunks_mut(2 * step) {
            let (left, right) = pair.split_at_mut(step);
            left[0].iter_mut().zip(&right[0]).for_each(|(sum, &term)| *sum += term);
        }
        step *= 2;
    }
}

fn to_bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&value| half::bf16::from_f32(value).to_bits()).collect()
}

fn from_bf16(bits: u16) -> f32 {
    half::bf16::from_bits(bits).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::local;
    use proptest::prelude::*;

    const CALL: Call = Call { name: "test", step: 0, limit: Some(std::time::Duration::from_secs(20)) };

    /// The sum of lanes in a binary tree, by its definition.
    fn tree(lanes: &[Vec<f32>]) -> Vec<f32> {
        if let [lane] = lanes {
            return lane.clone();
        }
        let (left, right) = lanes.split_at(lanes.len() / 2);
        tree(left).iter().zip(tree(right)).map(|(a, b)| a + b).collect()
    }

    /// What `size` ranks make of these lanes, each of which adds up its own part first.
    fn reduced(lanes: &[Vec<f32>], size: usize, wire: Wire, bucket: usize, sharded: bool) -> Vec<Vec<u32>> {
        let each = lanes.len() / size;
        local::run(size, |group| {
            let mut data = tree(&lanes[group.rank() * each..(group.rank() + 1) * each]);
            let shards = Shards::new(data.len(), size, if sharded { 32 } else { 16 });
            exchange(group, CALL, &mut data, &shards.ranges(), wire, bucket).unwrap();
            all_gather(group, CALL, &mut data, &shards, wire).unwrap();
            data.iter().map(|value| value.to_bits()).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_number_of_ranks_does_not_change_the_bits(
            len in 1usize..300, seed in any::<u64>(), bucket in 1usize..80, sharded in any::<bool>(),
        ) {
            // Numbers of very different sizes, whose sums depend on the order.
            let value = |lane: usize, i: usize| {
                let bits = xxhash_rust::xxh3::xxh3_64(&(seed ^ ((lane * 1000 + i) as u64)).to_le_bytes());
                ((bits % 2001) as f32 - 1000.0) * 10f32.powi((bits >> 32) as i32 % 7)
            };
            let lanes: Vec<Vec<f32>> = (0..8).map(|lane| (0..len).map(|i| value(lane, i)).collect()).collect();
            let expected: Vec<u32> = tree(&lanes).iter().map(|value| value.to_bits()).collect();
            for size in [1, 2, 4, 8] {
                for of_rank in reduced(&lanes, size, Wire::F32, bucket, sharded) {
                    prop_assert_eq!(&of_rank, &expected, "{} ranks", size);
                }
            }
            // In bf16 every rank has the same bits, and they are near.
            let narrow = reduced(&lanes, 4, Wire::Bf16, bucket, sharded);
            prop_assert!(narrow.iter().all(|of_rank| of_rank == &narrow[0]));
            let largest = lanes.iter().flatten().fold(0.0f32, |most, value| most.max(value.abs()));
            for (&near, &exact) in narrow[0].iter().zip(&expected) {
                let error = (f32::from_bits(near) - f32::from_bits(exact)).abs();
                prop_assert!(error <= 8.0 * largest / 128.0, "{error} of {largest}");
            }
        }
    }

    #[test]
    fn shards_end_at_the_boundaries_that_are_allowed() {
        let ranges = |parts, allowed: &[usize]| Shards::between(100, parts, allowed).ranges();
        assert_eq!(ranges(2, &[0, 10, 45, 70]), [0..45, 45..100]);
        assert_eq!(ranges(4, &[0, 10, 45, 70]), [0..10, 10..45, 45..70, 70..100]);
        // Too few for all ranks: some have nothing.
        assert_eq!(ranges(4, &[0, 60]), [0..0, 0..60, 60..60, 60..100]);
        assert_eq!(ranges(2, &[0]), [0..0, 0..100]);
        assert_eq!(ranges(1, &[]), vec![0..100]);
        assert_eq!(Shards::between(100, 2, &[0, 45]).after(7).ranges(), [7..52, 52..107]);
    }

    #[test]
    fn shards_are_aligned_and_cover_everything() {
        for (len, parts) in [(0, 2), (1, 4), (16384, 2), (16385, 2), (100_000, 4), (1 << 20, 8)] {
            let shards = Shards::new(len, parts, ALIGN);
            let ranges: Vec<_> = (0..parts).map(|rank| shards.range(rank)).collect();
            assert_eq!((ranges[0].start, ranges[parts - 1].end), (0, len));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(ranges.iter().all(|range| range.start == len || range.start % ALIGN == 0));
            // Windows that cover everything hold every shard, cut up.
            let mut found = vec![0; parts];
            for start in (0..len).step_by(10_001) {
                let window = start..(start + 10_001).min(len);
                for (rank, part) in shards.within(&window).into_iter().enumerate().filter(|(_, part)| !part.is_empty())
                {
                    assert_eq!(start + part.start, ranges[rank].start + found[rank]);
                    found[rank] += part.len();
                }
            }
            assert!(found.iter().zip(&ranges).all(|(&found, range)| found == range.len()));
        }
    }

    #[test]
    fn one_number_a_rank_meets_in_the_same_tree() {
        let values = [1e16, 1.0, -1e16, 3.0];
        assert_eq!(tree_sum(&values), (1e16 + 1.0) + (-1e16 + 3.0));
        assert_eq!(tree_sum(&values[..1]), 1e16);
    }
}
