//! AdamW (Loshchilov and Hutter 2019) over the whole arena: one pass that reads gradients and writes weights and moments.
//!
//! The order of operations is PyTorch's: decay first (`p -= lr * wd * p`), then the moments, then the bias-corrected step
//! `p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`. Decay acts on tensors of two or more dimensions.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::math;
use crate::ops::element::on_cpu;
use crate::tape::{Gradients, Params};
use crate::tensor::Tensor;

/// The numbers of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Adam's t: updates applied so far, this one included (so at least 1).
    pub t: u64,
    /// What gradients are multiplied with first (clipping and the inverse loss scale).
    pub grad_scale: f32,
}

/// The factors that are the same for every element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors {
    pub grad_scale: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub one_minus_beta1: f32,
    pub one_minus_beta2: f32,
    pub eps: f32,
    pub step_size: f32,
    pub sqrt_correction2: f32,
}

/// Updates `params` and their copy in the compute dtype from `grads`, in host memory; `m` and `v` are the moments, flat
/// f32 in the layout of the gradients. On a GPU it is [`cuda::update`].
pub fn adamw(params: &mut Params, grads: &Gradients, m: &mut Tensor, v: &mut Tensor, with: &AdamW) {
    let all = 0..params.layout().trained();
    adamw_part(params, grads, m, v, with, all);
}

/// [`adamw`] of the elements `part` of the gradients alone, whose moments `m` and `v` hold.
pub fn adamw_part(
    params: &mut Params,
    grads: &Gradients,
    m: &mut Tensor,
    v: &mut Tensor,
    with: &AdamW,
    part: std::ops::Range<usize>,
) {
    let correction1 = 1.0 - math::powi(with.beta1, with.t);
    let correction2 = 1.0 - math::powi(with.beta2, with.t);
    let factors = Factors {
        grad_scale: with.grad_scale,
        beta1: with.beta1 as f32,
        beta2: with.beta2 as f32,
        one_minus_beta1: (1.0 - with.beta1) as f32,
        one_minus_beta2: (1.0 - with.beta2) as f32,
        eps: with.eps as f32,
        step_size: (with.lr / correction1) as f32,
        sqrt_correction2: correction2.sqrt() as f32,
    };
    let layout = params.layout().clone();
    for (info, trained) in layout.trained_infos() {
        let keep = if info.decays() { (1.0 - with.lr * with.weight_decay) as f32 } else { 1.0 };
        let both = trained.start.max(part.start)..trained.end.min(part.end);
        if both.is_empty() {
            continue;
        }
        let here = both.start - part.start..both.end - part.start;
        let first = info.range().start + (both.start - trained.start);
        let place = first..first + both.len();
        let (flat, copy) = params.buffers_mut();
        let p = &mut flat.f32_mut()[place.clone()];
        let (m, v, g) = (&mut m.f32_mut()[here.clone()], &mut v.f32_mut()[here], &grads.flat().f32()[both]);
        match copy {
            None => cpu::update(p, m, v, g, keep, factors),
            Some(copy) => on_cpu!(copy.dtype(), E => {
                let copy = &mut copy.values_mut::<E>()[place];
                cpu::update_with_copy(p, copy, m, v, g, keep, factors);
            }),
        }
    }
}
