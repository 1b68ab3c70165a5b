//! `ops::relu2`.

use super::operator::{self, B, M, Moved, T};
use taper::ops::relu2::relu2;

/// Measures the activation.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T * M;
    let moved = Moved { forward: 2 * n, backward: 3 * n };
    operator::bench(c, "relu2", &[&[B, T, M]], &[], moved, |tape, vars, _| relu2(tape, &vars[0]));
}
