//! The cost of the norm.

/// Bytes for each parameter: the gradient is read.
pub const BYTES_PER_PARAMETER: usize = 4;
