//! AdamW (Loshchilov and Hutter 2019): slots `m` and `v`, the running means of gradients and of their squares.

use std::ops::Range;

use super::{Cut, DeviceRule, Rule, Update};
use crate::device::Gpu;
use crate::error::Result;
use crate::ops::adamw::cuda::{Prepared, Rates};
use crate::ops::adamw::{self as op};
use crate::optim::config::OptimizerConfig;
use crate::tape::{Gradients, Layout, Params};
use crate::tensor::Tensor;

/// AdamW's numbers that stay the same for a whole run.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    rates: Rates,
}

impl AdamW {
    /// The rule with the numbers of a config.
    pub fn of(config: &OptimizerConfig) -> AdamW {
        let &OptimizerConfig { beta1, beta2, eps, weight_decay, .. } = config;
        AdamW { rates: Rates { beta1, beta2, eps, weight_decay } }
    }
}

impl Rule for AdamW {
    fn slots(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn cut(&self) -> Cut {
        Cut::Anywhere
    }

    fn update(&self, params: &mut Params, grads: &Gradients, part: Range<usize>, slots: &mut [Tensor], with: &Update) {
        let Rates { beta1, beta2, eps, weight_decay } = self.rates;
        let &Update { lr, grad_scale, updates } = with;
        let with = op::AdamW { lr, beta1, beta2, eps, weight_decay, t: updates, grad_scale };
        let (m, v) = slots.split_at_mut(1);
        op::adamw_part(params, grads, &mut m[0], &mut v[0], &with, part);
    }

    fn on_gpu(&self, gpu: &'static Gpu, layout: &Layout, part: Range<usize>) -> Result<Box<dyn DeviceRule>> {
        let prepared = Prepared::new(gpu, layout)?;
        Ok(Box::new(OnGpu { gpu, rates: self.rates, part, prepared }))
    }
}

/// AdamW of one part of the parameters on a GPU.
struct OnGpu {
    gpu: &'static Gpu,
    rates: Rates,
    part: Range<usize>,
    prepared: Prepared,
}

impl DeviceRule for OnGpu {
    fn update(&mut self, params: &mut Params, grads: &Gradients, slots: &mut [Tensor], record: u64) -> Result<()> {
        let (m, v) = slots.split_at_mut(1);
        let moments = (&mut m[0], &mut v[0]);
        op::cuda::update(self.gpu, params, grads, moments, &mut self.prepared, self.part.clone(), record, self.rates)
    }
}
