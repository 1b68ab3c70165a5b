//! Rotary positions on CUDA: not in this version.

use crate::device::cuda::not_there;
use crate::error::Result;

/// See [`super::cpu::rotate`].
///
/// # Errors
/// Always, in this version.
pub fn rotate() -> Result<()> {
    Err(not_there("rope"))
}
