//! `ops::dropout`.

use super::operator::{self, B, C, T};
use taper::ops::dropout::{cost::cost, dropout};
use taper::random::Mask;

/// Measures dropout of 0.1. The input is shared here, so that its copy is part of the forward.
pub fn bench(c: &mut criterion::Criterion) {
    let (n, mask) = (B * T * C, Mask::new(1, 2, 3, 0, 0.1));
    operator::bench(c, "dropout", &[&[B, T, C]], &[], cost(n), |tape, vars, _| {
        dropout(tape, vars[0].clone(), mask, &[0, 1, 2, 3])
    });
}
