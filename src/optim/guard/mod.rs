//! What guards a step, whatever the rule: the norm of the gradients, the kind of step that makes, clipping, and in fp16 the
//! loss scale.
//!
//! A step whose loss or gradients are not finite is not applied: weights, the rule's state and the count of updates
//! stay as they are. Whether training resumes after that is the caller's policy (`stability.nonfinite`). [`Guard`]
//! decides on the CPU,
//! [`device::DeviceGuard`] takes the same decisions on a GPU.

pub mod device;

use crate::ops::gradnorm::GradNorm;
use crate::tape::ParamId;

/// What kind of step it was (design: stability).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Class {
    /// Finite and under the clip norm.
    Finite,
    /// Finite and scaled down to the clip norm.
    Clipped,
    /// All elements finite, but the sum of their squares overflowed.
    Overflow,
    /// Some elements are NaN or infinite; the first parameter that has one.
    NonFinite(ParamId),
    /// The loss is NaN or infinite.
    LossNonFinite,
    /// fp16: the gradients overflowed because of the loss scale, which was halved.
    Backoff,
    /// Nothing was done: a step before was not finite, and the policy was to stop there.
    Stopped,
}

impl Class {
    /// Whether the update was applied.
    pub fn is_applied(self) -> bool {
        matches!(self, Class::Finite | Class::Clipped)
    }

    /// Whether the update was refused because something was not finite (that the loss scale does not answer for).
    pub fn is_refused(self) -> bool {
        matches!(self, Class::Overflow | Class::NonFinite(_) | Class::LossNonFinite)
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The kind of step.
    pub class: Class,
    /// Global L2 norm of the gradients before clipping (infinite or NaN where it is).
    pub norm: f32,
    /// The norm after clipping: what was applied; equals `norm` where nothing was clipped.
    pub norm_clipped: f32,
}

/// Judges the steps of a CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guard {
    /// Gradients of a larger global L2 norm are scaled down to it (Pascanu et al. 2013).
    pub clip_norm: Option<f64>,
}

impl Guard {
    /// What kind of step gradients of this norm and a step's loss make, and what the gradients are to be multiplied
    /// with: `None` where nothing is to be updated.
    pub fn judge(&self, norm: GradNorm, loss: f64) -> (Outcome, Option<f32>) {
        let refused = |class, norm| (Outcome { class, norm, norm_clipped: norm }, None);
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
        let clip = self.clip_norm.map(|clip| clip as f32).filter(|&clip| norm > clip);
        let (class, grad_scale, norm_clipped) = match clip {
            // The small number is that of PyTorch's clip_grad_norm_: its losses are the ones to reproduce.
            Some(clip) => (Class::Clipped, clip / (norm + 1e-6), clip),
            None => (Class::Finite, 1.0, norm),
        };
        (Outcome { class, norm, norm_clipped }, Some(grad_scale))
    }
}

/// Dynamic loss scaling of fp16: the scale doubles after so many applied steps in a row, and halves at an overflow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaling {
    /// The scale at the start.
    pub initial: f32,
    /// The scale does not fall below this: an overflow there is a non-finite step.
    pub min: f32,
    /// Nor rise above this.
    pub max: f32,
    /// Applied steps after which the scale doubles.
    pub growth_interval: u32,
}

impl Default for LossScaling {
    fn default() -> Self {
        LossScaling { initial: 65_536.0, min: 1.0, max: 16_777_216.0, growth_interval: 2000 }
    }
}

/// The loss scale, as a checkpoint keeps it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ScaleState {
    /// What the loss is multiplied with.
    pub loss_scale: f32,
    /// Applied steps since it last changed.
    pub good_steps: u32,
}
