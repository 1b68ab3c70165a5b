//! Dropout on CUDA.

use crate::device::Gpu;
use crate::device::launch::{Arg, Geometry};
use crate::error::Result;
use crate::ops::launch::mask_arguments;
use crate::random::Mask;
use crate::tensor::Tensor;

const THREADS: usize = 256;
/// Elements of one thread: those of one block of random numbers.
const PER_THREAD: usize = 8;

/// See [`super::cpu::apply`].
///
/// # Errors
/// If memory or the device fails.
pub fn apply(gpu: &'static Gpu, y: &mut Tensor, mask: Mask, sequences: &[u32]) -> Result<()> {
    let length = y.len() / sequences.len().max(1);
    let indices = Tensor::from_u32(sequences, &[sequences.len()])?.to_device(gpu.device())?;
    let mut arguments = vec![Arg::Pointer(y.address_mut()), Arg::Pointer(indices.address()), Arg::U64(length as u64)];
    arguments.extend(mask_arguments(&mask));
    let grid = [length.div_ceil(THREADS * PER_THREAD) as u32, sequences.len() as u32, 1];
    let geometry = Geometry { grid, block: [THREADS as u32, 1, 1], shared_bytes: 0 };
    gpu.launch(&format!("dropout_apply_{}", y.dtype().suffix()), geometry, &arguments)
}
