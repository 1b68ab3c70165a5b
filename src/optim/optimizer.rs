//! The optimizer: one norm pass, classification, clipping, one AdamW pass.
//!
//! A step whose loss or gradients are not finite is not applied: weights, moments and Adam's t stay as they are. Whether
//! training goes on after that is the caller's policy (`stability.nonfinite`).

use std::ops::Range;

use super::guard::{Class, Outcome, refused};
use crate::error::Result;
use crate::ops::adamw::{AdamW, adamw_part};
use crate::ops::gradnorm::{GradNorm, cpu, gradnorm, gradnorm_of_parts};
use crate::tape::{Gradients, Params};
use crate::tensor::{DType, Tensor};

/// AdamW's numbers that stay the same for a whole run, and the clip norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay on tensors of two or more dimensions.
    pub weight_decay: f64,
    /// Gradients of a larger global L2 norm are scaled down to it (Pascanu et al. 2013).
    pub clip_norm: Option<f64>,
}

/// Where a part of the gradients may begin ([`Optimizer::of_part`]): at a multiple of this many elements.
pub const PART_ALIGN: usize = cpu::CHUNK;

/// AdamW with its moments: two flat f32 buffers in the layout of the gradients.
#[derive(Debug)]
pub struct Optimizer {
    hyper: Hyper,
    /// The elements of the arena that are updated here.
    part: Range<usize>,
    m: Tensor,
    v: Tensor,
    t: u64,
}

impl Optimizer {
    /// A fresh optimizer for these parameters.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(hyper: Hyper, params: &Params) -> Result<Optimizer> {
        Optimizer::of_part(hyper, params, 0..params.layout().trained())
    }

    /// A fresh optimizer for the elements `part` of the gradients; other processes have the rest (ZeRO stage 1, Rajbhandari et
    /// al. 2020). It begins at a multiple of [`PART_ALIGN`].
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn of_part(hyper: Hyper, params: &Params, part: Range<usize>) -> Result<Optimizer> {
        assert!(part.is_empty() || part.start.is_multiple_of(PART_ALIGN), "a part that begins at {}", part.start);
        let device = params.flat().device();
        let zeros = || Tensor::zeros(device, DType::F32, &[part.len()]);
        Ok(Optimizer { hyper, m: zeros()?, v: zeros()?, part, t: 0 })
    }

    /// First moments, second moments (of the optimizer's part), and updates applied so far: what a checkpoint keeps.
    pub fn state(&self) -> (&Tensor, &Tensor, u64) {
        (&self.m, &self.v, self.t)
    }

    /// Puts back what [`Optimizer::state`] gave.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn restore(&mut self, m: &[f32], v: &[f32], t: u64) {
        self.m.f32_mut().copy_from_slice(m);
        self.v.f32_mut().copy_from_slice(v);
        self.t = t;
    }

    /// Applies one step with learning rate `lr`, unless `loss` or the gradients are not finite.
    pub fn step(&mut self, params: &mut Params, grads: &Gradients, loss: f64, lr: f64) -> Outcome {
        self.apply(params, grads, gradnorm(grads, 1.0), loss, lr)
    }

    /// [`Optimizer::step`] where `grads` are whole in this optimizer's part only. `gather` gives the numbers of all
    /// processes, in the order of their parts. Afterwards `params` are new in this part only.
    ///
    /// # Errors
    /// Those of `gather`.
    pub fn step_part(
        &mut self,
        params: &mut Params,
        grads: &Gradients,
        gather: &mut dyn FnMut(&[f64]) -> Result<Vec<f64>>,
        loss: f64,
        lr: f64,
    ) -> Result<Outcome> {
        let norm = gradnorm_of_parts(grads, self.part.clone(), gather)?;
        Ok(self.apply(params, grads, norm, loss, lr))
    }

    fn apply(&mut self, params: &mut Params, grads: &Gradients, norm: GradNorm, loss: f64, lr: f64) -> Outcome {
        let norm = match norm {
            GradNorm::Finite(norm) => norm,
            GradNorm::Overflow => {
                let class = if loss.is_finite() { Class::Overflow } else { Class::LossNonFinite };
                return refused(class, f32::INFINITY);
            }
            GradNorm::NonFinite(id) => {
                let class = if loss.is_finite() { Class::NonFinite(id) } else { Class::LossNonFinite };
                return refused(class, f32::NAN);
            }
        };
        if !loss.is_finite() {
            return refused(Class::LossNonFinite, norm);
        }
        let clip = self.hyper.clip_norm.map(|clip| clip as f32).filter(|&clip| norm > clip);
        let (class, grad_scale, norm_clipped) = match clip {
            // The small number is that of PyTorch's clip_grad_norm_: its losses are the ones to reproduce.
            Some(clip) => (Class::Clipped, clip / (norm + 1e-6), clip),
            None => (Class::Finite, 1.0, norm),
        };
        self.t += 1;
        let Hyper { beta1, beta2, eps, weight_decay, .. } = self.hyper;
        let with = AdamW { lr, beta1, beta2, eps, weight_decay, t: self.t, grad_scale };
        adamw_part(params, grads, &mut self.m, &mut self.v, &with, self.part.clone());
        Outcome { class, norm, norm_clipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::tape::Layout;

    #[test]
    fn refused_steps_change_nothing() {
        let mut layout = Layout::default();
        let w = layout.push("w", &[4, 4]);
        let b = layout.push("b", &[4]);
        let mut params = Params::zeros(layout, Device::Cpu).unwrap();
        params.set(w, &[0.5; 16]).unwrap();
        let hyper = Hyper { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip_norm: Some(1.0) };
        let mut optimizer = Optimizer::new(hyper, &params).unwrap();
        let mut grads = Gradients::zeros_like(&params).unwrap();
        let before = params.flat().f32().to_vec();

        grads.of_mut(b)[1] = f32::NAN;
        let outcome = optimizer.step(&mut params, &grads, 1.0, 0.1);
        assert_eq!(outcome.class, Class::NonFinite(b));
        let outcome = optimizer.step(&mut params, &grads, f64::NAN, 0.1);
        assert_eq!(outcome.class, Class::LossNonFinite);
        grads.of_mut(b)[1] = 1e30;
        assert_eq!(optimizer.step(&mut params, &grads, 1.0, 0.1).class, Class::Overflow);
        assert_eq!((params.flat().f32(), optimizer.state().2), (&before[..], 0));

        grads.of_mut(b)[1] = 10.0;
        let outcome = optimizer.step(&mut params, &grads, 1.0, 0.1);
        assert_eq!((outcome.class, outcome.norm, outcome.norm_clipped), (Class::Clipped, 10.0, 1.0));
        // Only the tensor of two dimensions decays.
        assert!((params.value(w).f32()[0] - 0.495).abs() < 1e-7);
        assert_eq!(params.value(b).f32()[0], 0.0);
    }
}
