//! What operators must move and compute at least. Each operator's numbers are in its `cost.rs`; benchmarks, plans and
//! counts of FLOPs read them there.
//!
//! Every tensor counts once for each time that the operator must read or write it; gradients of parameters, to which is
//! added, are read and written. FLOPs are those of matrix products (two for each multiply-add); what is done element by
//! element is not counted, because memory limits it.

use crate::tensor::DType;

/// What one pass of an operator moves and computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Elements of activations and of their gradients, in the compute dtype.
    pub activations: usize,
    /// Elements of parameters, in the compute dtype.
    pub weights: usize,
    /// Elements that are always f32: statistics, losses, gradients of parameters.
    pub f32: usize,
    /// Floating-point operations of products.
    pub flops: usize,
}

impl Work {
    /// Bytes that move, with activations and parameters in `dtype`.
    pub fn bytes(&self, dtype: DType) -> f64 {
        (dtype.size() * (self.activations + self.weights)) as f64 + 4.0 * self.f32 as f64
    }
}

/// What an operator moves and computes, forward and on the way back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// The forward pass.
    pub forward: Work,
    /// The way back.
    pub backward: Work,
}

impl Cost {
    /// Of an operator that moves so many elements of activations and nothing else.
    pub const fn moves(forward: usize, backward: usize) -> Cost {
        const fn work(activations: usize) -> Work {
            Work { activations, weights: 0, f32: 0, flops: 0 }
        }
        Cost { forward: work(forward), backward: work(backward) }
    }

    /// Elements of activations of both passes.
    pub const fn activations(&self) -> usize {
        self.forward.activations + self.backward.activations
    }

    /// FLOPs of both passes.
    pub const fn flops(&self) -> usize {
        self.forward.flops + self.backward.flops
    }
}

/// What counts where two ways of counting are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// What must move, however the operator is made: operands once for a pass, rows of tables once.
    Least,
    /// What moves where nothing is kept from one use to the next: operands once for each product that reads them, rows of
    /// tables once for each place; activations alone.
    EachUse,
}
