//! The cost of SwiGLU.

use crate::ops::cost::Cost;

/// `n` outputs, of twice as many inputs.
pub fn cost(n: usize) -> Cost {
    Cost::moves(3 * n, 5 * n)
}
