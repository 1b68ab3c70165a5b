//! `ops::rmsnorm`.

use super::operator::{self, B, C, Moved, T};
use taper::ops::rmsnorm::rmsnorm;

/// Measures the norm.
pub fn bench(c: &mut criterion::Criterion) {
    let n = B * T * C;
    let moved = Moved { forward: 2 * n, backward: 3 * n };
    operator::bench(c, "rmsnorm", &[&[B, T, C]], &[&[C]], moved, |tape, vars, params| {
        rmsnorm(tape, &vars[0], params[0], 1e-5)
    });
}
