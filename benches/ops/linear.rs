//! `ops::linear`.

use super::operator::{self, B, C, M, Moved, T};
use taper::ops::linear::linear;

/// Measures the first layer of the feed-forward block. What limits it is arithmetic: 2 N C M operations forward, twice as
/// many backward.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T;
    let moved = Moved { forward: n * (C + M), backward: n * (2 * C + 2 * M) };
    operator::bench(c, "linear", &[&[B, T, C]], &[&[M, C], &[M]], moved, |tape, vars, params| {
        linear(tape, &vars[0], params[0], Some(params[1]))
    });
}
