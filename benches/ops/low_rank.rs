//! `ops::low_rank`.

use super::operator::{self, B, C, M, T};
use taper::ops::cost::Counting;
use taper::ops::low_rank::{cost::cost, low_rank};

/// Measures an adapter of rank 16 next to the first layer of the feed-forward block. It reads and writes that layer's output
/// once more; the products are thin.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T;
    operator::bench(
        c,
        "low_rank",
        &[&[B, T, C], &[B, T, M]],
        &[&[16, C], &[M, 16]],
        cost(n, C, M, 16, Counting::EachUse),
        |tape, vars, params| low_rank(tape, vars[1].clone(), &vars[0], (params[0], params[1]), 0, 2.0),
    );
}
