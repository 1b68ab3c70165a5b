//! The embedding on CUDA: not in this version.

use crate::device::cuda::not_there;
use crate::error::Result;

/// See [`super::cpu::forward`].
///
/// # Errors
/// Always, in this version.
pub fn forward() -> Result<()> {
    Err(not_there("embedding"))
}

/// See [`super::cpu`].
///
/// # Errors
/// Always, in this version.
pub fn backward() -> Result<()> {
    Err(not_there("embedding"))
}
