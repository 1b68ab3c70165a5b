//! The micro-batch: how many sequences pass through the model at once.

use crate::device::info::available_memory;
use crate::error::{Error, Result};
use crate::model::ModelConfig;

/// The share of the available memory that `micro_batch = "auto"` may plan with: the estimate is not exact, and other
/// programs live here too.
const SHARE: f64 = 0.8;

/// The memory that a step is predicted to need at its peak, in bytes.
pub fn predicted_bytes(
    model: &ModelConfig,
    parameters: usize,
    micro_batch: usize,
    recompute: bool,
    buffers: usize,
) -> u64 {
    // `training_bytes` counts one gradient buffer.
    model.training_bytes(parameters, micro_batch, recompute) + 4 * parameters as u64 * (buffers as u64 - 1)
}

/// The largest divisor of `global_batch` whose step is predicted to fit the memory that is available now.
///
/// # Errors
/// If not even a single sequence fits.
pub fn largest_that_fits(
    model: &ModelConfig,
    parameters: usize,
    global_batch: usize,
    recompute: bool,
    buffers: impl Fn(usize) -> usize,
) -> Result<usize> {
    let available = match available_memory() {
        0 => u64::MAX,
        bytes => (bytes as f64 * SHARE) as u64,
    };
    let need = |size: usize| predicted_bytes(model, parameters, size, recompute, buffers(global_batch / size));
    let fits = |size: &usize| global_batch.is_multiple_of(*size) && need(*size) <= available;
    (1..=global_batch).rev().find(fits).ok_or_else(|| {
        Error::Training(format!(
            "a step with a single sequence needs about {} MiB, and {} MiB are available; use a smaller model or \
             context_length, or train.recompute = true",
            need(1) >> 20,
            available >> 20
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{Mlp, Norm, NormPosition, Position};

    #[test]
    fn the_choice_divides_the_global_batch_and_grows_no_further_than_memory() {
        let model = ModelConfig {
            n_layer: 2,
            n_head: 2,
            n_kv_head: 2,
            head_dim: 16,
            n_embd: 32,
            mlp_dim: 128,
            context_length: 64,
            vocab_size: 100,
            norm: Norm::Layernorm,
            norm_position: NormPosition::Pre,
            norm_eps: 1e-5,
            position: Position::Learned,
            rope_theta: 1e4,
            mlp: Mlp::Gelu,
            qkv_bias: true,
            bias: true,
            tie_embeddings: true,
            dropout: 0.0,
        };
        let buffers = |count: usize| super::super::lanes::buffers(super::super::lanes::default_lanes(count));
        assert_eq!(largest_that_fits(&model, 30_000, 24, false, buffers).unwrap(), 24);
        assert!(predicted_bytes(&model, 30_000, 8, false, 1) > predicted_bytes(&model, 30_000, 8, true, 1));
        let huge = ModelConfig { context_length: 1 << 30, n_embd: 1 << 20, ..model };
        let error = largest_that_fits(&huge, 30_000, 24, false, buffers).unwrap_err();
        assert!(error.to_string().contains("recompute"), "{error}");
    }
}
