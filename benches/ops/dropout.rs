//! `ops::dropout`.

use super::operator::{self, B, C, Moved, T};
use taper::ops::dropout::dropout;
use taper::random::Mask;

/// Measures dropout of 0.1. The input is shared here, so that its copy is part of the forward.
pub fn bench(c: &mut criterion::Criterion) {
    let (n, mask) = (B * T * C, Mask::new(1, 2, 3, 0, 0.1));
    let moved = Moved { forward: 2 * n, backward: 2 * n };
    operator::bench(c, "dropout", &[&[B, T, C]], &[], moved, |tape, vars, _| {
        dropout(tape, vars[0].clone(), mask, &[0, 1, 2, 3])
    });
}
