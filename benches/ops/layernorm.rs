//! `ops::layernorm`.

use super::operator::{self, B, C, T};
use taper::ops::layernorm::{cost::cost, layernorm};

/// Measures the norm with its bias.
pub fn bench(c: &mut criterion::Criterion) {
    operator::bench(c, "layernorm", &[&[B, T, C]], &[&[C], &[C]], cost(B * T, C), |tape, vars, params| {
        layernorm(tape, &vars[0], params[0], Some(params[1]), 1e-5)
    });
}
