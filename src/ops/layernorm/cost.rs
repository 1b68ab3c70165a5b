//! The cost of LayerNorm. The weight, the bias and their gradients are small and not counted.

use crate::ops::cost::{Cost, Work};

/// Two statistics for each of the `n` rows, next to what moves of their `c` elements.
fn of(n: usize, c: usize, forward: usize, backward: usize) -> Cost {
    let work = |times: usize| Work { activations: times * n * c, f32: 2 * n, ..Work::default() };
    Cost { forward: work(forward), backward: work(backward) }
}

/// `n` rows of `c` elements.
pub fn cost(n: usize, c: usize) -> Cost {
    of(n, c, 2, 3)
}

/// The residual sum and its norm.
pub fn cost_of_sum(n: usize, c: usize) -> Cost {
    of(n, c, 4, 4)
}
