//! The cost of attention.

use crate::ops::cost::{Cost, Work};
use crate::ops::heads::Heads;

/// Products of queries with keys, and of probabilities with values: forward.
pub const FORWARD: usize = 2;
/// Products on the way back: the scores once more, and the gradients of queries, keys, values and probabilities.
pub const BACKWARD: usize = 5;
/// Products of both passes in the usual accounting, which does not count the scores that are made again.
pub const ACCOUNTED: usize = 6;

/// Which pairs of a query and a key count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Those that the causal mask leaves: T (T + 1) / 2 of a sequence.
    Causal,
    /// Half of all.
    Half,
    /// All T^2.
    All,
}

/// Twice the pairs of a sequence of `t` tokens.
fn twice(pairs: Pairs, t: usize) -> usize {
    match pairs {
        Pairs::Causal => t * (t + 1),
        Pairs::Half => t * t,
        Pairs::All => 2 * t * t,
    }
}

/// FLOPs of so many products over `b` sequences of `t` tokens, for heads of `width` H D together.
pub fn flops(products: usize, pairs: Pairs, (b, t, width): (usize, usize, usize)) -> usize {
    products * b * twice(pairs, t) * width
}

/// FLOPs of so many products of one query with `keys` keys.
pub fn flops_of_query(products: usize, keys: usize, width: usize) -> usize {
    2 * products * keys * width
}

/// `b` sequences of `t` tokens: `qkv` read, the output and a log-sum-exp for each query and head written; on the way
/// back `qkv` and the output read, their gradients written and read.
pub fn cost(b: usize, t: usize, heads: Heads, pairs: Pairs) -> Cost {
    let (n, moved) = (b * t, heads.packed() + heads.width());
    let of = |times: usize, products: usize| Work {
        activations: times * n * moved,
        weights: 0,
        f32: n * heads.n_head,
        flops: flops(products, pairs, (b, t, heads.width())),
    };
    Cost { forward: of(1, FORWARD), backward: of(2, BACKWARD) }
}

/// Bytes for one query after `past` keys of the cache: every key and value is read once, in elements of `size` bytes.
pub fn bytes_of_one_query(heads: Heads, past: usize, size: usize) -> usize {
    2 * size * heads.n_kv_head * (past + 1) * heads.head_dim
}
