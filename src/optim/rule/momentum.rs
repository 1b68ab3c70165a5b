//! SGD with momentum, for tests alone: it shows that a rule is one file and its line in [`super::of`].
//!
//! `b = momentum b + g`, `p -= lr b` (Sutskever et al. 2013, as PyTorch writes it); `beta1` is the momentum. It asks
//! for whole parameters, as rules that work on matrices do.

use std::ops::Range;

use super::{Cut, DeviceRule, Rule, Update};
use crate::device::Gpu;
use crate::error::{Error, Result};
use crate::optim::config::OptimizerConfig;
use crate::tape::{Gradients, Layout, Params};
use crate::tensor::Tensor;

#[derive(Debug)]
pub(crate) struct Momentum {
    momentum: f32,
}

impl Momentum {
    pub(crate) fn of(config: &OptimizerConfig) -> Momentum {
        Momentum { momentum: config.beta1 as f32 }
    }
}

impl Rule for Momentum {
    fn slots(&self) -> &'static [&'static str] {
        &["momentum"]
    }

    fn cut(&self) -> Cut {
        Cut::BetweenParameters
    }

    fn update(&self, params: &mut Params, grads: &Gradients, part: Range<usize>, slots: &mut [Tensor], with: &Update) {
        let frozen = params.layout().frozen();
        let weights = &mut params.flat_mut().f32_mut()[frozen + part.start..frozen + part.end];
        let buffer = slots[0].f32_mut();
        for ((p, b), g) in weights.iter_mut().zip(buffer).zip(&grads.flat().f32()[part]) {
            *b = self.momentum * *b + g * with.grad_scale;
            *p -= with.lr as f32 * *b;
        }
    }

    fn on_gpu(&self, _gpu: &'static Gpu, _layout: &Layout, _part: Range<usize>) -> Result<Box<dyn DeviceRule>> {
        Err(Error::usage("SGD with momentum has no kernels"))
    }
}
