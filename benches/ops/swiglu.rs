//! `ops::swiglu`.

use super::operator::{self, B, M, Moved, T};
use taper::ops::swiglu::swiglu;

/// Measures the activation for M outputs of a row.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T * M;
    let moved = Moved { forward: 3 * n, backward: 5 * n };
    operator::bench(c, "swiglu", &[&[B, T, 2 * M]], &[], moved, |tape, vars, _| swiglu(tape, &vars[0]));
}
