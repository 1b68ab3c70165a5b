//! Decoding on a GPU: one step for all sequences, recorded once and started with one call, and the choice of the next tokens
//! prepared on the device.
//!
//! A step computes a row for every slot, whether it has a new token or not, so that the shapes of the matrix products
//! (and with them the bits of a row) never depend on how many sequences are under way. What a row costs is little next
//! to reading the weights. Prompts are fed one after another.

use std::collections::BTreeMap;

use super::{Decode, Feed, Select, check};
use crate::arch::ModelConfig;
use crate::device::Gpu;
use crate::device::gpu::Recorded;
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::nn::Cache;
use crate::ops::attention::decode::SPLIT;
use crate::ops::candidates::{Candidates, candidates};
use crate::ops::launch::ABSENT;
use crate::tape::Params;
use crate::tensor::{DType, Tensor};

/// A model that decodes on a GPU.
pub struct OnGpu {
    gpu: &'static Gpu,
    model: Gpt,
    params: Params,
    cache: Cache,
    capacity: usize,
    lens: Vec<usize>,
    /// u32 [S]: the new token of each slot, and the tokens before it. The recorded steps read them where they are.
    tokens: Tensor,
    pasts: Tensor,
    /// Steps by the most parts of the cache that a sequence has.
    steps: BTreeMap<usize, Step>,
    /// What the last feed left on the device.
    last: Last,
}

/// The logits of a feed.
#[derive(Default)]
struct Last {
    /// Of all slots, f32 [S, V], where one had a step.
    stepped: Option<Tensor>,
    /// Where those of each feed are.
    rows: Vec<Row>,
}

enum Row {
    /// The row of this slot in `stepped`.
    Stepped(usize),
    /// A prompt's, f32 [1, V].
    Prompt(Tensor),
}

/// A step for sequences of up to so many keys.
#[derive(Default)]
struct Step {
    /// Made when the step is wanted a second time: the first time compiles kernels and finds memory.
    recorded: Option<(Recorded, Tensor)>,
    seen: bool,
}

impl OnGpu {
    /// `slots` sequences of up to `capacity` tokens (at most the context) each; `params` are on a GPU.
    ///
    /// # Errors
    /// If memory cannot be had.
    ///
    /// # Panics
    /// If the parameters are not on a GPU.
    pub fn new(model: Gpt, params: Params, slots: usize, capacity: usize) -> Result<OnGpu> {
        let gpu = params.flat().gpu().expect("parameters on a GPU");
        let (device, dtype) = (gpu.device(), params.compute_dtype());
        let capacity = capacity.min(model.config().context_length);
        let cache = Cache::new(model.config(), slots, capacity, device, dtype)?;
        Ok(OnGpu {
            gpu,
            model,
            params,
            cache,
            capacity,
            lens: vec![0; slots],
            tokens: Tensor::empty(device, DType::U32, &[slots, 1])?,
            pasts: Tensor::empty(device, DType::U32, &[slots])?,
            steps: BTreeMap::new(),
            last: Last::default(),
        })
    }

    /// Computes the logits of all feeds, which stay on the device.
    fn compute(&mut self, feeds: &[Feed<'_>]) -> Result<()> {
        check(self, feeds)?;
        self.last = Last::default();
        let is_step = |engine: &OnGpu, feed: &Feed<'_>| feed.tokens.len() == 1 && engine.lens[feed.slot] > 0;
        let steps: Vec<Feed<'_>> = feeds.iter().filter(|feed| is_step(self, feed)).copied().collect();
        let stepped = if steps.is_empty() { None } else { Some(self.step(&steps)?) };
        let mut rows = Vec::with_capacity(feeds.len());
        for feed in feeds {
            let Feed { slot, tokens } = *feed;
            rows.push(if is_step(self, feed) {
                Row::Stepped(slot)
            } else {
                let input = Tensor::from_u32(tokens, &[1, tokens.len()])?;
                let past = self.lens[slot];
                Row::Prompt(self.model.decode_at(&self.params, &input, &mut self.cache, (slot, past))?)
            });
        }
        feeds.iter().for_each(|feed| self.lens[feed.slot] += feed.tokens.len());
        self.last = Last { stepped, rows };
        Ok(())
    }

    /// One token for each of the feeds; logits [S, V].
    fn step(&mut self, feeds: &[Feed<'_>]) -> Result<Tensor> {
        let slots = self.lens.len();
        let (mut tokens, mut pasts, mut longest) = (vec![0; slots], vec![ABSENT; slots], 0);
        for feed in feeds {
            tokens[feed.slot] = feed.tokens[0];
            pasts[feed.slot] = self.lens[feed.slot] as u32;
            longest = longest.max(self.lens[feed.slot] + 1);
        }
        self.tokens.copy_from(&Tensor::from_u32(&tokens, &[slots, 1])?)?;
        self.pasts.copy_from(&Tensor::from_u32(&pasts, &[slots])?)?;
        // Few sizes, so that few steps are recorded: parts beyond a sequence's end are not computed.
        let parts = longest.div_ceil(SPLIT).next_power_of_two();
        let OnGpu { gpu, model, params, cache, steps, .. } = self;
        let (tokens, pasts) = (&self.tokens, &self.pasts);
        let step = steps.entry(parts).or_default();
        if !step.seen {
            step.seen = true;
            return model.decode_each(params, tokens, cache, pasts, parts * SPLIT);
        }
        let (recorded, logits) = match &mut step.recorded {
            Some(recorded) => recorded,
            none => {
                let mut logits = None;
                let recorded = gpu.record(&mut || {
                    logits = Some(model.decode_each(params, tokens, cache, pasts, parts * SPLIT)?);
                    Ok(())
                })?;
                let logits = logits.ok_or_else(|| Error::Device("recorded work left no logits".into()))?;
                none.insert((recorded, logits))
            }
        };
        recorded.start()?;
        Ok(logits.clone())
    }
}

impl Decode for OnGpu {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn slots(&self) -> usize {
        self.lens.len()
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn len(&self, slot: usize) -> usize {
        self.lens[slot]
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.lens[slot] = self.lens[slot].min(len);
    }

    fn feed(&mut self, feeds: &[Feed<'_>], logits: &mut Vec<f32>) -> Result<()> {
        self.compute(feeds)?;
        logits.clear();
        for index in 0..feeds.len() {
            logits.extend(self.logits_of(index)?);
        }
        Ok(())
    }

    fn selecting(&mut self) -> Option<&mut dyn Select> {
        Some(self)
    }
}

impl Select for OnGpu {
    fn feed_candidates(
        &mut self,
        feeds: &[Feed<'_>],
        vocabulary: usize,
        temperatures: &[f64],
    ) -> Result<Vec<Candidates>> {
        self.compute(feeds)?;
        // Greedy choice reads no sum; any number will do.
        let inverse = |temperature: f64| if temperature > 0.0 { (1.0 / temperature) as f32 } else { 1.0 };
        let mut inverses = vec![1.0; self.lens.len()];
        feeds.iter().zip(temperatures).for_each(|(feed, &temperature)| inverses[feed.slot] = inverse(temperature));
        let on_device = |values: &[f32]| Tensor::from_f32(values, &[values.len()])?.to_device(self.gpu.device());
        let of_slots = match &self.last.stepped {
            Some(logits) => candidates(logits, vocabulary, &on_device(&inverses)?)?,
            None => Vec::new(),
        };
        let mut found = Vec::with_capacity(feeds.len());
        for (feed, row) in feeds.iter().zip(&self.last.rows) {
            found.push(match row {
                Row::Stepped(slot) => of_slots[*slot].clone(),
                Row::Prompt(logits) => {
                    let mut one = candidates(logits, vocabulary, &on_device(&inverses[feed.slot..feed.slot + 1])?)?;
                    one.pop().expect("one row in, one out")
                }
            });
        }
        Ok(found)
    }

    fn logits_of(&mut self, index: usize) -> Result<Vec<f32>> {
        match (&self.last.rows[index], &self.last.stepped) {
            (Row::Prompt(logits), _) => logits.to_vec_f32(),
            (Row::Stepped(slot), Some(logits)) => logits.view(slot * logits.last(), &[logits.last()]).to_vec_f32(),
            (Row::Stepped(_), None) => Err(Error::Device("the logits of a step are gone".into())),
        }
    }
}
