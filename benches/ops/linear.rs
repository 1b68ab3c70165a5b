//! `ops::linear`.

use super::operator::{self, B, C, M, T};
use taper::ops::cost::Counting;
use taper::ops::linear::{cost::cost, linear};

/// Measures the first layer of the feed-forward block. What limits it is arithmetic: 2 N C M operations forward, twice as
/// many backward.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T;
    operator::bench(
        c,
        "linear",
        &[&[B, T, C]],
        &[&[M, C], &[M]],
        cost(n, C, M, Counting::EachUse),
        |tape, vars, params| linear(tape, &vars[0], params[0], Some(params[1])),
    );
}
