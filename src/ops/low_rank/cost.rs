//! The cost of a low-rank correction.

use crate::ops::cost::{Cost, Counting, Work};

/// `n` rows from `ins` to `outs` by way of `rank`, added to an output that is there.
pub fn cost(n: usize, ins: usize, outs: usize, rank: usize, counting: Counting) -> Cost {
    let weights = rank * (ins + outs);
    let flops = 2 * n * weights;
    match counting {
        Counting::Least => Cost {
            forward: Work { activations: n * (ins + 2 * outs + rank), weights, f32: 0, flops },
            backward: Work { activations: n * (2 * ins + outs + rank), weights, f32: 2 * weights, flops: 2 * flops },
        },
        // What lies between the two products is small.
        Counting::EachUse => Cost {
            forward: Work { activations: n * (ins + 2 * outs), flops, ..Work::default() },
            backward: Work { activations: n * (2 * ins + 2 * outs), flops: 2 * flops, ..Work::default() },
        },
    }
}
