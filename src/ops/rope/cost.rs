//! The cost of the rotary embedding.

use crate::ops::cost::Cost;
use crate::ops::heads::Heads;

/// `n` tokens: queries and keys are read and written in place, in each pass.
pub fn cost(n: usize, heads: Heads) -> Cost {
    let turned = n * (heads.n_head + heads.n_kv_head) * heads.head_dim;
    Cost::moves(2 * turned, 2 * turned)
}
