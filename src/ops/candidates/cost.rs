//! The cost of choosing candidates.

/// Bytes for a row of `v` logits: each is read once.
pub fn bytes(v: usize) -> usize {
    4 * v
}
