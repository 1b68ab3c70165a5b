//! The cost of an update.

use crate::tensor::DType;

/// Bytes of state that AdamW keeps for each parameter: two moments.
pub const STATE_BYTES: usize = 8;

/// Bytes for each parameter of an update in one pass with `state` bytes of state: weights and state are read and
/// written, the gradient is read, and the copy in the compute dtype, where there is one, is written.
pub fn bytes_per_parameter(state: usize, compute: DType) -> usize {
    2 * (4 + state) + 4 + if compute == DType::F32 { 0 } else { compute.size() }
}
