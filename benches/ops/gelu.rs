//! `ops::gelu`.

use super::operator::{self, B, M, T};
use taper::ops::gelu::{Kind, cost::cost, gelu};

/// Measures both kinds.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T * M;
    for (name, kind) in [("gelu tanh", Kind::Tanh), ("gelu erf", Kind::Erf)] {
        operator::bench(c, name, &[&[B, T, M]], &[], cost(n), |tape, vars, _| gelu(tape, &vars[0], kind));
    }
}
