//! The cost of a linear layer.

use crate::ops::cost::{Cost, Counting, Work};

/// `n` rows from `ins` to `outs`. A bias and its gradient are small and not counted, see [`bias_gradient`].
pub fn cost(n: usize, ins: usize, outs: usize, counting: Counting) -> Cost {
    let weights = outs * ins;
    let flops = 2 * n * weights;
    match counting {
        Counting::Least => Cost {
            forward: Work { activations: n * (ins + outs), weights, f32: 0, flops },
            backward: Work { activations: n * (2 * ins + outs), weights, f32: 2 * weights, flops: 2 * flops },
        },
        // The output's gradient is read by both products of the way back.
        Counting::EachUse => Cost {
            forward: Work { activations: n * (ins + outs), flops, ..Work::default() },
            backward: Work { activations: n * (2 * ins + 2 * outs), flops: 2 * flops, ..Work::default() },
        },
    }
}

/// Elements of the output's gradient that the sum for the bias reads in a pass of its own, as on a GPU.
pub fn bias_gradient(n: usize, outs: usize) -> usize {
    n * outs
}
