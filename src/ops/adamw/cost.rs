//! The cost of an update.

use crate::ops::cost::bytes_of_update;
use crate::tensor::DType;

/// Bytes for each parameter, with two moments in f32 and a copy of the weights in the compute dtype.
pub fn bytes_per_parameter(compute: DType) -> usize {
    bytes_of_update(8, compute)
}
