//! The key-value cache of inference: preallocated, one pair of tensors for each layer.

use crate::arch::config::ModelConfig;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// Keys and values of the tokens seen so far.
#[derive(Debug)]
pub struct Cache {
    /// Per layer: keys and values, each [B, K, T, D].
    pub(crate) layers: Vec<(Tensor, Tensor)>,
    len: usize,
    capacity: usize,
}

impl Cache {
    /// An empty cache for `batch` sequences of up to `capacity` tokens, in the dtype of the activations.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(config: &ModelConfig, batch: usize, capacity: usize, device: Device, dtype: DType) -> Result<Cache> {
        let shape = [batch, config.n_kv_head, capacity, config.head_dim];
        let pair = || Ok((Tensor::zeros(device, dtype, &shape)?, Tensor::zeros(device, dtype, &shape)?));
        let layers = (0..config.n_layer).map(|_| pair()).collect::<Result<_>>()?;
        Ok(Cache { layers, len: 0, capacity })
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens the cache can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets the tokens from the `len`-th on; 0 forgets everything.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Counts `tokens` more; called once all layers have stored theirs.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// # Errors
    /// If `tokens` more do not fit.
    pub(crate) fn check_room(&self, tokens: usize) -> Result<()> {
        if self.len + tokens > self.capacity {
            return Err(Error::Training(format!(
                "{} tokens do not fit a context of {}",
                self.len + tokens,
                self.capacity
            )));
        }
        Ok(())
    }
}
