//! The micro-batch: how many sequences pass through the model at once.

use crate::arch::ModelConfig;
use crate::device::info::available_memory;
use crate::device::{DType, Device};
use crate::error::{Error, Result};

/// The share of the available memory that `micro_batch = "auto"` may plan with: the estimate is not exact, and other
/// programs live here too.
pub const SHARE: f64 = 0.8;

/// What decides the memory of a step besides the micro-batch.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'m> {
    /// The model's shape.
    pub model: &'m ModelConfig,
    /// Its parameters.
    pub parameters: usize,
    /// Those of them that are trained.
    pub trained: usize,
    /// Bytes of optimizer state for each trained parameter ([`crate::optim::rule::state_bytes`]).
    pub state_bytes: usize,
    /// Whether blocks store only their input.
    pub recompute: bool,
    /// The dtype of activations.
    pub dtype: DType,
    /// Whether a GPU computes.
    pub on_gpu: bool,
}

impl Memory<'_> {
    /// The memory that a step with so many gradient buffers is predicted to need at its peak, in bytes.
    pub fn predicted_bytes(&self, micro_batch: usize, buffers: usize) -> u64 {
        let Memory { model, parameters, trained, state_bytes, recompute, dtype, on_gpu } = *self;
        // `training_bytes` counts one gradient buffer.
        let more_buffers = 4 * trained as u64 * (buffers as u64 - 1);
        // What is not trained has no gradient and no optimizer state.
        let spared = ((4 + state_bytes) * (parameters - trained)) as u64;
        let all_trained = match on_gpu {
            false => model.training_bytes(parameters, state_bytes, micro_batch, recompute, dtype),
            true => model.training_bytes_on_gpu(parameters, state_bytes, micro_batch, recompute, dtype),
        };
        more_buffers + all_trained - spared
    }

    /// The largest divisor of `global_batch` whose step is predicted to fit `available` bytes ([`available`]), and whose
    /// number of micro-batches is a multiple of `lanes`.
    ///
    /// # Errors
    /// If not even a single sequence fits.
    pub fn largest_that_fits(
        &self,
        global_batch: usize,
        available: u64,
        lanes: usize,
        buffers: impl Fn(usize) -> usize,
    ) -> Result<usize> {
        let room = (available as f64 * SHARE) as u64;
        let need = |size: usize| self.predicted_bytes(size, buffers(global_batch / size));
        let fits = |size: &usize| global_batch.is_multiple_of(*size * lanes) && need(*size) <= room;
        (1..=global_batch).rev().find(fits).ok_or_else(|| {
            Error::Training(format!(
                "a step with a single sequence needs about {} MiB, and {} MiB are available; use a smaller model or \
                 context_length, or train.recompute = true",
                need(1) >> 20,
                room >> 20
            ))
        })
    }
}

/// Bytes that are free on a device now (all of them where that is not known).
///
/// # Errors
/// If the device fails.
pub fn available(device: Device) -> Result<u64> {
    match device.gpu()? {
        Some(gpu) => gpu.driver().free_bytes(),
        None => Ok(match available_memory() {
            0 => u64::MAX,
            bytes => bytes,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_divides_the_global_batch_and_grows_no_further_than_memory() {
        let model = ModelConfig::gpt2(2, 2, 32, 64, 100);
        let buffers = |count: usize| super::super::lanes::buffers(super::super::lanes::default_lanes(count));
        let (parameters, dtype) = (30_000, DType::F32);
        let memory = Memory {
            model: &model,
            parameters,
            trained: parameters,
            state_bytes: 8,
            recompute: false,
            dtype,
            on_gpu: false,
        };
        let free = available(Device::Cpu).unwrap();
        assert_eq!(memory.largest_that_fits(24, free, 1, buffers).unwrap(), 24);
        assert_eq!(memory.largest_that_fits(24, free, 4, buffers).unwrap(), 6);
        let recomputing = Memory { recompute: true, ..memory };
        assert!(memory.predicted_bytes(8, 1) > recomputing.predicted_bytes(8, 1));
        let adapters = Memory { trained: 1_000, ..memory };
        assert_eq!(memory.predicted_bytes(8, 3) - adapters.predicted_bytes(8, 3), 20 * 29_000);
        let narrow = Memory { dtype: DType::BF16, on_gpu: true, ..memory };
        assert!(narrow.predicted_bytes(8, 1) < memory.predicted_bytes(8, 1));
        let huge = ModelConfig { context_length: 1 << 30, n_embd: 1 << 20, ..model.clone() };
        let error = Memory { model: &huge, ..memory }.largest_that_fits(24, free, 1, buffers).unwrap_err();
        assert!(error.to_string().contains("recompute"), "{error}");
        // Exactly what two sequences need fits two, and not three.
        let room = (memory.predicted_bytes(2, buffers(12)) as f64 / SHARE).ceil() as u64 + 1;
        assert_eq!(memory.largest_that_fits(24, room, 1, buffers).unwrap(), 2);
    }
}
