//! Decoding by the operators of training, on any device: one sequence after another.

use super::{Decode, Feed, check};
use crate::arch::ModelConfig;
use crate::error::Result;
use crate::model::Gpt;
use crate::nn::Cache;
use crate::tape::Params;
use crate::tensor::Tensor;

/// The model's own operators behind [`Decode`], with a cache for each slot, made when it is first used.
#[derive(Debug)]
pub struct Tensors {
    model: Gpt,
    params: Params,
    capacity: usize,
    caches: Vec<Option<Cache>>,
}

impl Tensors {
    /// `slots` sequences of up to `capacity` tokens (at most the context) each.
    pub fn new(model: Gpt, params: Params, slots: usize, capacity: usize) -> Tensors {
        let capacity = capacity.min(model.config().context_length);
        Tensors { model, params, capacity, caches: (0..slots).map(|_| None).collect() }
    }
}

impl Decode for Tensors {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn slots(&self) -> usize {
        self.caches.len()
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn len(&self, slot: usize) -> usize {
        self.caches[slot].as_ref().map_or(0, Cache::len)
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        if let Some(cache) = &mut self.caches[slot] {
            cache.truncate(len);
        }
    }

    fn feed(&mut self, feeds: &[Feed<'_>], logits: &mut Vec<f32>) -> Result<()> {
        check(self, feeds)?;
        logits.clear();
        for feed in feeds {
            let cache = match &mut self.caches[feed.slot] {
                Some(cache) => cache,
                none => {
                    let (device, dtype) = (self.params.flat().device(), self.params.compute_dtype());
                    none.insert(Cache::new(self.model.config(), 1, self.capacity, device, dtype)?)
                }
            };
            let tokens = Tensor::from_u32(feed.tokens, &[1, feed.tokens.len()])?;
            logits.extend(self.model.decode(&self.params, &tokens, cache)?.to_vec_f32()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_disturb_each_other_and_bad_feeds_change_nothing() {
        let config = ModelConfig::gpt2(2, 4, 32, 16, 50);
        let model = || Gpt::new(config.clone()).unwrap();
        let params = || model().initialise(3).unwrap();
        let mut alone = Tensors::new(model(), params(), 1, 100);
        let mut both = Tensors::new(model(), params(), 2, 100);
        assert_eq!(alone.capacity(), config.context_length);
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        for tokens in [&[1, 2, 3][..], &[4], &[5]] {
            alone.feed(&[Feed { slot: 0, tokens }], &mut expected).unwrap();
            both.feed(&[Feed { slot: 0, tokens: &[7] }, Feed { slot: 1, tokens }], &mut found).unwrap();
            assert_eq!(expected, found[config.vocab_size..]);
        }
        // Taken back and fed again, the same follows.
        both.truncate(1, 3);
        both.feed(&[Feed { slot: 1, tokens: &[4] }], &mut found).unwrap();
        both.feed(&[Feed { slot: 1, tokens: &[5] }], &mut found).unwrap();
        assert_eq!(expected, found);

        let long = vec![0; config.context_length - 2];
        let bad: [&[Feed<'_>]; 5] = [
            &[Feed { slot: 2, tokens: &[1] }],
            &[Feed { slot: 0, tokens: &[1] }, Feed { slot: 0, tokens: &[1] }],
            &[Feed { slot: 0, tokens: &[] }],
            &[Feed { slot: 0, tokens: &[config.vocab_size as u32] }],
            &[Feed { slot: 0, tokens: &long }],
        ];
        for feeds in bad {
            assert!(both.feed(feeds, &mut found).is_err());
            assert_eq!((both.len(0), both.len(1)), (3, 5));
        }
    }
}
