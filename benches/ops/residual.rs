//! `ops::residual`.

use super::operator::{self, B, C, T};
use taper::ops::residual::{cost::cost, residual};

/// Measures the sum. The terms are shared here, so that a copy is part of the forward.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T * C;
    operator::bench(c, "residual", &[&[B, T, C], &[B, T, C]], &[], cost(n), |tape, vars, _| {
        residual(tape, &vars[0], vars[1].clone())
    });
}
