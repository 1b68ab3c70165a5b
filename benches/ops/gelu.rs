//! `ops::gelu`.

use super::operator::{self, B, M, Moved, T};
use taper::ops::gelu::{Kind, gelu};

/// Measures both kinds.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T * M;
    for (name, kind) in [("gelu tanh", Kind::Tanh), ("gelu erf", Kind::Erf)] {
        let moved = Moved { forward: 2 * n, backward: 3 * n };
        operator::bench(c, name, &[&[B, T, M]], &[], moved, |tape, vars, _| gelu(tape, &vars[0], kind));
    }
}
