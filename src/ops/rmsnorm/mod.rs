//! RMS normalization: `y = x / sqrt(mean(x^2) + eps) * weight` over the last axis (Zhang and Sennrich 2019).
//!
//! Kept for the backward: the input, shared with the residual stream, and one number for a row.

pub mod cpu;
pub mod cuda;

use crate::device::Device;
use crate::error::Result;
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
    let w = tape.params().value(weight);
    let input = x.value();
    assert_eq!(input.last(), w.len(), "rmsnorm: width");
    let mut y = Tensor::empty(input.device(), DType::F32, input.shape())?;
    let mut rstd = Tensor::empty(input.device(), DType::F32, &[input.rows()])?;
    match input.device() {
        Device::Cpu => cpu::forward(y.f32_mut(), rstd.f32_mut(), input.f32(), w.f32(), eps),
        Device::Cuda(_) => cuda::forward()?,
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
        let mut d = douts.pop().expect("one output").into_sole()?;
        let w = context.params().value(self.weight);
        match d.device() {
            Device::Cpu => {
                let dw = context.grads().of_mut(self.weight);
                cpu::backward(d.f32_mut(), dw, self.rstd.f32(), self.x.value().f32(), w.f32());
            }
            Device::Cuda(_) => cuda::backward()?,
        }
        context.add(self.x.id(), d)
    }
}
