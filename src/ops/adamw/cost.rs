//! The cost of an update.

use crate::tensor::DType;

/// Bytes for each parameter: weights and both moments are read and written, the gradient is read, and the copy in the compute
/// dtype, where there is one, is written.
pub fn bytes_per_parameter(compute: DType) -> usize {
    6 * 4 + 4 + if compute == DType::F32 { 0 } else { compute.size() }
}
