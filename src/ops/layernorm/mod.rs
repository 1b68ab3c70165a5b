//! Layer normalization: `y = (x - mean) / sqrt(variance + eps) * weight + bias` over the last axis (Ba et al. 2016).
//!
//! The variance is that of the population (divided by C), in a second pass over the row, so that a large common offset
//! does not cancel it away. Kept for the backward: the input, shared with the residual stream, and two numbers for a row.

pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::ops::launch::NormSaved;
use crate::tape::{Backward, Context, ParamId, Tape, Var};
use crate::tensor::{DType, Tensor};

/// Normalizes `x` [.., C] over its last axis, then scales by `weight` [C] and shifts by `bias` [C] where there is one.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the last axis of `x` is not C.
pub fn layernorm(tape: &mut Tape<'_>, x: &Var, weight: ParamId, bias: Option<ParamId>, eps: f32) -> Result<Var> {
    let params = tape.params();
    let (w, b) = (params.weight(weight), bias.map(|bias| params.weight(bias)));
    let input = x.value();
    assert_eq!(input.last(), w.len(), "layernorm: width");
    let mut y = Tensor::empty(input.device(), input.dtype(), input.shape())?;
    let mut mean = Tensor::empty(input.device(), DType::F32, &[input.rows()])?;
    let mut rstd = Tensor::empty(input.device(), DType::F32, &[input.rows()])?;
    match input.gpu() {
        None => {
            let stats = (mean.f32_mut(), rstd.f32_mut());
            cpu::forward(y.f32_mut(), stats, input.f32(), w.f32(), b.as_ref().map(Tensor::f32), eps);
        }
        Some(gpu) => cuda::forward(gpu, &mut y, (&mut mean, &mut rstd), input, &w, b.as_ref(), eps)?,
    }
    let used: Vec<ParamId> = std::iter::once(weight).chain(bias).collect();
    Ok(tape.record(&used, y, || Box::new(LayerNorm { x: x.clone(), weight, bias, mean, rstd })))
}

struct LayerNorm {
    x: Var,
    weight: ParamId,
    bias: Option<ParamId>,
    mean: Tensor,
    rstd: Tensor,
}

impl Backward for LayerNorm {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let d = douts.pop().expect("one output");
        let w = context.params().weight(self.weight);
        if let Some(gpu) = d.gpu() {
            // One pass also adds what has already come back along the residual stream.
            let so_far = context.take(self.x.id());
            let grads = context.grads();
            let dw = grads.wanted_address(self.weight);
            let db = self.bias.and_then(|bias| grads.wanted_address(bias));
            let (x, stats) = (self.x.value(), &[&self.mean, &self.rstd]);
            let saved = NormSaved { dy: &d, so_far: so_far.as_ref(), x, w: &w, stats };
            let dx = cuda::backward(gpu, &saved, (dw, db))?;
            return context.add(self.x.id(), dx);
        }
        let mut d = d.into_sole()?;
        let stats = (self.mean.f32(), self.rstd.f32());
        let partial = cpu::backward(d.f32_mut(), stats, self.x.value().f32(), w.f32());
        if let Some(dw) = context.grads().wanted(self.weight) {
            cpu::add_partial(dw, &partial, 0);
        }
        if let Some(db) = self.bias.and_then(|bias| context.grads().wanted(bias)) {
            cpu::add_partial(db, &partial, 1);
        }
        context.add(self.x.id(), d)
    }
}
