//! The cost of dropout.

use crate::ops::cost::Cost;

/// `n` elements read and written, in each pass: masks are functions of their place.
pub fn cost(n: usize) -> Cost {
    Cost::moves(2 * n, 2 * n)
}
