//! RMS normalization: `y = x / sqrt(mean(x^2) + eps) * weight` over the last axis (Zhang and Sennrich 2019).
//!
//! Kept for the backward: the input, shared with the residual stream, and one number for a row.

pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::ops::launch::NormSaved;
use crate::tape::{Backward, Context, ParamId, Tape, Var};
use crate::tensor::{DType, Tensor};

/// Normalizes `x` [.., C] over its last axis and scales by `weight` [C].
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the last axis of `x` is not C.
pub fn rmsnorm(tape: &mut Tape<'_>, x: &Var, weight: ParamId, eps: f32) -> Result<Var> {
    let w = tape.params().weight(weight);
    let input = x.value();
    assert_eq!(input.last(), w.len(), "rmsnorm: width");
    let mut y = Tensor::empty(input.device(), input.dtype(), input.shape())?;
    let mut rstd = Tensor::empty(input.device(), DType::F32, &[input.rows()])?;
    match input.gpu() {
        None => cpu::forward(y.f32_mut(), rstd.f32_mut(), input.f32(), w.f32(), eps),
        Some(gpu) => cuda::forward(gpu, &mut y, &mut rstd, input, &w, eps)?,
    }
    Ok(tape.record(&[weight], y, || Box::new(RmsNorm { x: x.clone(), weight, rstd })))
}

struct RmsNorm {
    x: Var,
    weight: ParamId,
    rstd: Tensor,
}

impl Backward for RmsNorm {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let d = douts.pop().expect("one output");
        let w = context.params().weight(self.weight);
        if let Some(gpu) = d.gpu() {
            // One pass also adds what has already come back along the residual stream.
            let so_far = context.take(self.x.id());
            let dw = context.grads().wanted_address(self.weight);
            let (x, stats) = (self.x.value(), &[&self.rstd]);
            let saved = NormSaved { dy: &d, so_far: so_far.as_ref(), x, w: &w, stats };
            let dx = cuda::backward(gpu, &saved, dw)?;
            return context.add(self.x.id(), dx);
        }
        let mut d = d.into_sole()?;
        let mut unwanted = Vec::new();
        let dw = context.grads().wanted(self.weight).unwrap_or_else(|| {
            unwanted.resize(w.len(), 0.0);
            &mut unwanted
        });
        cpu::backward(d.f32_mut(), dw, self.rstd.f32(), self.x.value().f32(), w.f32());
        context.add(self.x.id(), d)
    }
}
