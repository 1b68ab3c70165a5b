//! The cost of RMSNorm. The weight and its gradient are small and not counted.

use crate::ops::cost::{Cost, Work};

/// One statistic for each of the `n` rows, next to what moves of their `c` elements.
fn of(n: usize, c: usize, forward: usize, backward: usize) -> Cost {
    let work = |times: usize| Work { activations: times * n * c, f32: n, ..Work::default() };
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
