//! The cost of the embedding.

use crate::ops::cost::{Cost, Counting, Work};

/// `b` sequences of `t` tokens from tables [v, c] and, where there are `positions`, [t, c].
pub fn cost(b: usize, t: usize, c: usize, v: usize, positions: bool, counting: Counting) -> Cost {
    let n = b * t;
    let table = |rows: usize| if positions { rows * c } else { 0 };
    match counting {
        Counting::Least => Cost {
            forward: Work { activations: 2 * n * c, weights: table(t), f32: n, flops: 0 },
            backward: Work { activations: n * c, weights: 0, f32: n + 2 * (n.min(v) * c + table(t)), flops: 0 },
        },
        Counting::EachUse => Cost::moves(2 * n * c + table(n), 3 * n * c),
    }
}
