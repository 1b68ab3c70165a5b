//! The optimizer on the CPU: one norm pass, the guard's decision, one pass of the rule.

use std::ops::Range;

use super::config::OptimizerConfig;
use super::guard::{Guard, Outcome};
use super::rule::{self, Rule, Update};
use super::state::{OptimizerState, Slots};
use crate::error::Result;
use crate::ops::gradnorm::{GradNorm, cpu, gradnorm, gradnorm_of_parts};
use crate::tape::{Gradients, Params};

/// What an optimizer is made from: the rule with its numbers, and the clip norm.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Hyper {
    /// The rule and its numbers. The learning rate is not read: every step brings its own.
    pub optimizer: OptimizerConfig,
    /// Gradients of a larger global L2 norm are scaled down to it (Pascanu et al. 2013).
    pub clip_norm: Option<f64>,
}

/// Where the part of [`Optimizer::step_part`] may begin: at a multiple of this many elements.
pub const PART_ALIGN: usize = cpu::CHUNK;

/// An optimizer with its state in host memory.
#[derive(Debug)]
pub struct Optimizer {
    guard: Guard,
    rule: Box<dyn Rule>,
    slots: Slots,
    updates: u64,
}

impl Optimizer {
    /// A fresh optimizer for these parameters.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(hyper: Hyper, params: &Params) -> Result<Optimizer> {
        Optimizer::of_part(hyper, params, 0..params.layout().trained())
    }

    /// A fresh optimizer for the elements `part` of the gradients; other processes have the rest (ZeRO stage 1,
    /// Rajbhandari et al. 2020). The rule says where it may be cut ([`Rule::cut`]).
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn of_part(hyper: Hyper, params: &Params, part: Range<usize>) -> Result<Optimizer> {
        let rule = rule::of(&hyper.optimizer);
        let slots = Slots::zeros(&*rule, part, params.flat().device())?;
        Ok(Optimizer { guard: Guard { clip_norm: hyper.clip_norm }, rule, slots, updates: 0 })
    }

    /// The elements of the gradients whose weights are updated here.
    pub fn part(&self) -> Range<usize> {
        self.slots.part()
    }

    /// What a checkpoint keeps, of this optimizer's part.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn state(&self) -> Result<OptimizerState> {
        self.state_of(self.part())
    }

    /// [`Optimizer::state`] of some of the elements that are updated here.
    ///
    /// # Errors
    /// If memory cannot be had.
    ///
    /// # Panics
    /// If they are not updated here.
    pub fn state_of(&self, part: Range<usize>) -> Result<OptimizerState> {
        Ok(OptimizerState { slots: self.slots.of(part)?, updates: self.updates, scale: None })
    }

    /// Takes this optimizer's part of whole slots, and the count of updates.
    ///
    /// # Errors
    /// `Usage` if the slots are of another rule or size.
    pub fn restore(&mut self, slots: &[(String, Vec<f32>)], updates: u64) -> Result<()> {
        self.slots.restore(slots)?;
        self.updates = updates;
        Ok(())
    }

    /// Applies one step with learning rate `lr`, unless `loss` or the gradients are not finite. `grads` are whole;
    /// `params` are new in this optimizer's part.
    pub fn step(&mut self, params: &mut Params, grads: &Gradients, loss: f64, lr: f64) -> Outcome {
        self.apply(params, grads, gradnorm(grads, 1.0), loss, lr)
    }

    /// [`Optimizer::step`] where `grads` are whole in this optimizer's part only, which begins at a multiple of [`PART_ALIGN`].
    /// `gather` gives the numbers of all processes, in the order of their parts.
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
        let part = self.part();
        assert!(part.is_empty() || part.start.is_multiple_of(PART_ALIGN), "a part that begins at {}", part.start);
        let norm = gradnorm_of_parts(grads, part, gather)?;
        Ok(self.apply(params, grads, norm, loss, lr))
    }

    fn apply(&mut self, params: &mut Params, grads: &Gradients, norm: GradNorm, loss: f64, lr: f64) -> Outcome {
        let (outcome, grad_scale) = self.guard.judge(norm, loss);
        if let Some(grad_scale) = grad_scale {
            self.updates += 1;
            let with = Update { lr, grad_scale, updates: self.updates };
            let part = self.part();
            self.rule.update(params, grads, part, self.slots.tensors_mut(), &with);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::optim::guard::Class;
    use crate::tape::Layout;

    #[test]
    fn refused_steps_change_nothing() {
        let mut layout = Layout::default();
        let w = layout.push("w", &[4, 4]);
        let b = layout.push("b", &[4]);
        let mut params = Params::zeros(layout, Device::Cpu).unwrap();
        params.set(w, &[0.5; 16]).unwrap();
        let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
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
        assert_eq!((params.flat().f32(), optimizer.state().unwrap().updates), (&before[..], 0));

        grads.of_mut(b)[1] = 10.0;
        let outcome = optimizer.step(&mut params, &grads, 1.0, 0.1);
        assert_eq!((outcome.class, outcome.norm, outcome.norm_clipped), (Class::Clipped, 10.0, 1.0));
        // Only the tensor of two dimensions decays.
        assert!((params.value(w).f32()[0] - 0.495).abs() < 1e-7);
        assert_eq!(params.value(b).f32()[0], 0.0);
    }
}
