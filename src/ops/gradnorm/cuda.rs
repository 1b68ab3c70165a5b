//! The gradnorm operator on CUDA: not in this version.

use crate::device::cuda::not_there;
use crate::error::Result;

/// See [`super::cpu`].
///
/// # Errors
/// Always, in this version.
pub fn run() -> Result<()> {
    Err(not_there("gradnorm"))
}
