//! `ops::layernorm`.

use super::operator::{self, B, C, Moved, T};
use taper::ops::layernorm::layernorm;

/// Measures the norm with its bias.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T * C;
    let moved = Moved { forward: 2 * n, backward: 3 * n };
    operator::bench(c, "layernorm", &[&[B, T, C]], &[&[C], &[C]], moved, |tape, vars, params| {
        layernorm(tape, &vars[0], params[0], Some(params[1]), 1e-5)
    });
}
