//! Attention on the CPU: what the forward pass, the backward pass and cached decoding share.
//!
//! Work goes block by block: a block of scores is a matrix product, a pass of exponentials over it, and a second matrix
//! product, all while it is in the cache. Block sizes fix the order of the sums and are part of the definition.
//! A document of a row is worked on as if it were a sequence of its own: the bits are those of the document alone.

mod backward;
mod cached;
mod forward;

pub use backward::backward;
pub use cached::forward_cached;
pub use forward::forward;

use super::AttentionDropout;
use crate::ops::documents::{Documents, Segment};
use crate::ops::element::{Element, per_f32};
use crate::ops::heads::Heads;
use crate::ops::matmul::Mat;
use crate::random::Mask;

/// Query rows of a block: few, because half of the block on the diagonal is computed for nothing.
pub const QUERIES: usize = 64;

/// Keys of a block: many, because every block costs each row a maximum, a sum and a correction, while 64 x 256 scores (and
/// as many gradients) still fit the second-level cache. Measured best of 64, 128, 192, 256 and 512 on AVX2. A multiple of
/// 8, so that a block starts where a block of dropout factors does, and of the lanes, to which rows are padded.
pub const KEYS: usize = 256;

/// The extents of one call.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'d> {
    /// Sequences.
    pub b: usize,
    /// Queries of each sequence.
    pub t: usize,
    /// The heads.
    pub heads: Heads,
    /// The documents of the sequences, where one has several.
    pub documents: Option<&'d Documents>,
}

impl Extent<'_> {
    /// The factor before the softmax, 1 / sqrt(D).
    fn scale(&self) -> f32 {
        (1.0 / (self.heads.head_dim as f64).sqrt()) as f32
    }

    /// What is attended to alone: the documents, else the sequences.
    fn segments(&self) -> Vec<Segment> {
        Documents::segments(self.documents, self.b, self.t)
    }

    /// Where row `t` of sequence `b` starts in packed rows.
    fn packed_row(&self, b: usize, t: usize) -> usize {
        (b * self.t + t) * self.heads.packed()
    }
}

/// The dropout factors of the probabilities of one head in one sequence.
///
/// Element `(h, q, k)` of a sequence of T tokens has number `(h * T + q) * T8 + k`, T8 being T rounded up to a multiple of
/// eight: it depends on the sequence's global index and its length, not on how the batch was cut.
#[derive(Clone, Copy)]
struct HeadMask {
    mask: Mask,
    sequence: u32,
    /// The block of eight factors with which query 0 starts.
    first: u64,
    /// Blocks of eight in a row.
    blocks: u64,
    /// The place in its sequence of what is query and key 0 here.
    shift: usize,
}

impl HeadMask {
    /// The factors of a head in a segment of a sequence of `t` tokens.
    fn new(dropout: Option<AttentionDropout<'_>>, segment: Segment, t: usize, head: usize) -> Option<HeadMask> {
        let blocks = t.div_ceil(8) as u64;
        let of = |dropout: AttentionDropout<'_>| HeadMask {
            mask: dropout.mask,
            sequence: dropout.sequences[segment.b],
            first: (head * t) as u64 * blocks,
            blocks,
            shift: segment.first,
        };
        dropout.map(of)
    }

    /// Writes the factors of keys `key..key + factors.len()` of a query.
    #[inline(always)]
    fn fill(&self, factors: &mut [f32], query: usize, key: usize) {
        let (query, key) = (query + self.shift, key + self.shift);
        let first = self.first + query as u64 * self.blocks + key as u64 / 8;
        // A document may begin inside a block of eight.
        let (head, whole) = factors.split_at_mut((key.wrapping_neg() % 8).min(factors.len()));
        if !head.is_empty() {
            head.copy_from_slice(&self.mask.block(self.sequence, first)[key % 8..][..head.len()]);
        }
        let first = first + u64::from(!head.is_empty());
        for (block, eight) in whole.chunks_mut(8).enumerate() {
            eight.copy_from_slice(&self.mask.block(self.sequence, first + block as u64)[..eight.len()]);
        }
    }
}

/// A block of `rows` by `width` values that `element::narrow_block` has rounded, rows of `block` [N, KEYS], as an
/// operand of a product.
fn operand<E: Element>(block: &[f32], rows: usize, width: usize) -> Mat<'_, E> {
    Mat::strided(bytemuck::cast_slice(block), rows, width, KEYS * per_f32::<E>())
}
