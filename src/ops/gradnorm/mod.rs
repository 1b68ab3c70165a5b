//! The global norm of all gradients, and what kind of gradients they are.
//!
//! Squares are summed in f32 over fixed chunks of the flat buffer, the chunks in f64 in order. A sum that is not finite is
//! looked into: either an element is not finite (and the first parameter that has one is named), or all elements are and
//! only the sum of their squares overflowed.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::tape::{Gradients, Layout, ParamId};

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
/// GPU, [`cuda::finish`] also decides what becomes of the step.
pub fn gradnorm(grads: &Gradients, scale: f32) -> GradNorm {
    let flat = grads.flat();
    let norm = (cpu::sum_of_squares(flat.f32()).sqrt() as f32) * scale;
    if norm.is_finite() {
        return GradNorm::Finite(norm);
    }
    nonfinite(grads.layout(), cpu::first_nonfinite(flat.f32()))
}

/// [`gradnorm`] where this process has only `part` of the gradients, which begins at a multiple of [`cpu::CHUNK`]; `gather`
/// gives the numbers of all processes, in the order of their parts. The bits are those of the whole buffer.
///
/// # Errors
/// Those of `gather`.
pub fn gradnorm_of_parts(
    grads: &Gradients,
    part: std::ops::Range<usize>,
    gather: &mut dyn FnMut(&[f64]) -> Result<Vec<f64>>,
) -> Result<GradNorm> {
    let own = &grads.flat().f32()[part.clone()];
    let norm = gather(&cpu::chunk_squares(own))?.iter().sum::<f64>().sqrt() as f32;
    if norm.is_finite() {
        return Ok(GradNorm::Finite(norm));
    }
    // Places are exact in f64; infinity stands for none.
    let first = cpu::first_nonfinite(own).map_or(f64::INFINITY, |index| (part.start + index) as f64);
    let first = gather(&[first])?.into_iter().fold(f64::INFINITY, f64::min);
    Ok(nonfinite(grads.layout(), first.is_finite().then_some(first as usize)))
}

fn nonfinite(layout: &Layout, first: Option<usize>) -> GradNorm {
    match first.and_then(|index| layout.owner(index + layout.frozen())) {
        Some(id) => GradNorm::NonFinite(id),
        None => GradNorm::Overflow,
    }
}
