//! `ops::swiglu`.

use super::operator::{self, B, M, T};
use taper::ops::swiglu::{cost::cost, swiglu};

/// Measures the activation for M outputs of a row.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T * M;
    operator::bench(c, "swiglu", &[&[B, T, 2 * M]], &[], cost(n), |tape, vars, _| swiglu(tape, &vars[0]));
}
