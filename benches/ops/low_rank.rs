//! `ops::low_rank`.

use super::operator::{self, B, C, M, Moved, T};
use taper::ops::low_rank::low_rank;

/// Measures an adapter of rank 16 beside the first layer of the feed-forward block. It reads and writes that layer's output
/// once more; the products are thin.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T;
    let moved = Moved { forward: n * (C + 2 * M), backward: n * (2 * C + 2 * M) };
    operator::bench(c, "low_rank", &[&[B, T, C], &[B, T, M]], &[&[16, C], &[M, 16]], moved, |tape, vars, params| {
        low_rank(tape, vars[1].clone(), &vars[0], (params[0], params[1]), 0, 2.0)
    });
}
