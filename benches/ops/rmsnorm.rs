//! `ops::rmsnorm`.

use super::operator::{self, B, C, T};
use taper::ops::rmsnorm::{cost::cost, rmsnorm};

/// Measures the norm.
pub fn bench(c: &mut criterion::Criterion) {
    operator::bench(c, "rmsnorm", &[&[B, T, C]], &[&[C]], cost(B * T, C), |tape, vars, params| {
        rmsnorm(tape, &vars[0], params[0], 1e-5)
    });
}
