//! What parameters are at the start.
//!
//! GPT-2's initialisation (Radford et al. 2019): normal with standard deviation 0.02, the projections back into the
//! residual stream scaled by 1/sqrt(2 L), biases zero, norm weights one. A packed parameter is initialised part by part
//! under each part's own name, so that the queries of a model with fewer key-value heads start as those of one with more.

/// What a parameter is at the start.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Uniform between minus this and this.
    Uniform {
        /// The bound.
        bound: f64,
    },
    /// Normal with this standard deviation; the parts split the rows of a packed parameter: (name, rows).
    Normal {
        /// Standard deviation.
        std: f64,
        /// Names and rows of the parts, in order.
        parts: Vec<(String, usize)>,
    },
}
