//! Dropout on the CPU: forward and backward are one and the same multiplication.

use rayon::prelude::*;

use crate::ops::element::Element;
use crate::ops::simd;
use crate::random::Mask;

/// Elements of one task; a multiple of the eight that one block of the mask covers.
const CHUNK: usize = 1 << 13;

/// `y` [B, T C] times the mask of each sequence.
pub fn apply<E: Element>(y: &mut [E], mask: Mask, sequences: &[u32]) {
    if y.is_empty() {
        return;
    }
    let len = y.len() / sequences.len();
    y.par_chunks_mut(len).zip(sequences).for_each(|(row, &sequence)| {
        let chunks = row.par_chunks_mut(CHUNK).enumerate();
        chunks.for_each(|(i, chunk)| multiply(chunk, mask, sequence, (i * (CHUNK / 8)) as u64));
    });
}

simd! {
    /// Multiplies by the mask from block `first` on.
    fn multiply<E: Element>(y: &mut [E], mask: Mask, sequence: u32, first: u64) {
        for (i, eight) in y.chunks_mut(8).enumerate() {
            let factors = mask.block(sequence, first + i as u64);
            for (y, factor) in eight.iter_mut().zip(factors) {
                *y = E::store(y.load() * factor);
            }
        }
    }
}
