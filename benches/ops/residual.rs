//! `ops::residual`.

use super::operator::{self, B, C, Moved, T};
use taper::ops::residual::residual;

/// Measures the sum. The terms are shared here, so that a copy is part of the forward.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T * C;
    let moved = Moved { forward: 3 * n, backward: 0 };
    operator::bench(c, "residual", &[&[B, T, C], &[B, T, C]], &[], moved, |tape, vars, _| {
        residual(tape, &vars[0], vars[1].clone())
    });
}
