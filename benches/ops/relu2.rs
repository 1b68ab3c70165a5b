//! `ops::relu2`.

use super::operator::{self, B, M, T};
use taper::ops::relu2::{cost::cost, relu2};

/// Measures the activation.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T * M;
    operator::bench(c, "relu2", &[&[B, T, M]], &[], cost(n), |tape, vars, _| relu2(tape, &vars[0]));
}
