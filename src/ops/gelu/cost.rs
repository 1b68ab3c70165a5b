//! The cost of GELU.

use crate::ops::cost::Cost;

/// `n` elements: read and written; on the way back the input and a gradient read, a gradient written.
pub fn cost(n: usize) -> Cost {
    Cost::moves(2 * n, 3 * n)
}
