//! The global norm of all gradients, and what kind of gradients they are.
//!
//! Squares are summed in f32 over fixed chunks of the flat buffer, the chunks in f64 in order. A sum that is not finite is
//! looked into: either an element is not finite (and the first parameter that has one is named), or all elements are and
//! only the sum of their squares overflowed.

pub mod cpu;
pub mod cuda;

use crate::tape::{Gradients, ParamId};

/// The norm of a gradient and its kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GradNorm {
    /// All is finite: the L2 norm.
    Finite(f32),
    /// All elements are finite, but the sum of their squares is not.
    Overflow,
    /// Some element is NaN or infinite; the first parameter, in arena order, that has one.
    NonFinite(ParamId),
}

/// Classifies gradients in host memory; `scale` is what they are to be multiplied with (the inverse of a loss scale). On a
/// GPU, [`cuda::classify`] also decides what becomes of the step.
pub fn gradnorm(grads: &Gradients, scale: f32) -> GradNorm {
    let flat = grads.flat();
    let norm = (cpu::sum_of_squares(flat.f32()).sqrt() as f32) * scale;
    if norm.is_finite() {
        return GradNorm::Finite(norm);
    }
    match cpu::first_nonfinite(flat.f32()).and_then(|index| grads.layout().owner(index + grads.layout().frozen())) {
        Some(id) => GradNorm::NonFinite(id),
        None => GradNorm::Overflow,
    }
}
