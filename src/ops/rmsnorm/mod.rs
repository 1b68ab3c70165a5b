//! RMS normalization: `y = x / sqrt(mean(x^2) + eps) * weight` over the last axis (Zhang and Sennrich 2019).
//!
//! Kept for the backward: the input, shared with the residual stream, and one number for a row.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::ops::element::on_cpu;
use crate::ops::launch::NormSaved;
use crate::ops::residual::{self, Incoming};
use crate::tape::{Backward, Context, ParamId, Params, Tape, Var, VarId};
use crate::tensor::{DType, Tensor};

/// Normalizes `x` [.., C] over its last axis and scales by `weight` `[C]`.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the last axis of `x` is not C.
pub fn rmsnorm(tape: &mut Tape<'_>, x: &Var, weight: ParamId, eps: f32) -> Result<Var> {
    let (y, rstd) = forward(tape.params(), x.value(), None, weight, eps)?;
    let (ids, x) = ([x.id(), None], x.value());
    Ok(tape.record(&[weight], y, || Box::new(RmsNorm { x: x.clone(), ids, weight, rstd })))
}

/// The residual sum `x + delta` and its [`rmsnorm`], in this order, in one pass over memory on a GPU. `delta`'s memory
/// becomes the sum's if it is not shared. The same bits as the two operators apart.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the shapes differ, or their last axis is not C.
pub fn add_rmsnorm(tape: &mut Tape<'_>, x: &Var, delta: Var, weight: ParamId, eps: f32) -> Result<[Var; 2]> {
    assert_eq!(x.value().shape(), delta.value().shape(), "add_rmsnorm: shapes");
    let ids = [x.id(), delta.id()];
    let mut sum = delta.into_value().into_sole()?;
    let (y, rstd) = forward(tape.params(), x.value(), Some(&mut sum), weight, eps)?;
    Ok(tape.record_many(&[weight], [sum.clone(), y], || Box::new(RmsNorm { x: sum, ids, weight, rstd })))
}

/// The output and inverse root mean square of `x`, or of `sum` after `x` has been added to it.
fn forward(
    params: &Params,
    x: &Tensor,
    sum: Option<&mut Tensor>,
    weight: ParamId,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    let w = params.weight(weight);
    assert_eq!(x.last(), w.len(), "rmsnorm: width");
    let mut y = Tensor::empty(x.device(), x.dtype(), x.shape())?;
    let mut rstd = Tensor::empty(x.device(), DType::F32, &[x.rows()])?;
    match x.gpu() {
        None => on_cpu!(y.dtype(), E => {
            let x = residual::sum_on_cpu::<E>(x, sum);
            cpu::forward(y.values_mut(), rstd.f32_mut(), x, w.values(), eps);
        }),
        Some(gpu) => cuda::forward(gpu, &mut y, &mut rstd, x, sum, &w, eps)?,
    }
    Ok((y, rstd))
}

struct RmsNorm {
    /// What was normalized.
    x: Tensor,
    /// Whose gradient its own is: that of one value, or of the two terms of a sum.
    ids: [Option<VarId>; 2],
    weight: ParamId,
    rstd: Tensor,
}

impl Backward for RmsNorm {
    fn backward(self: Box<Self>, douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        self.backward_some(douts.into_iter().map(Some).collect(), context)
    }

    fn backward_some(self: Box<Self>, douts: Vec<Option<Tensor>>, context: &mut Context<'_>) -> Result<()> {
        let Self { x, ids, weight, rstd } = *self;
        let Incoming { d, so_far } = Incoming::new(douts, ids[0], context)?;
        let w = context.params().weight(weight);
        let dx = match d.gpu() {
            Some(gpu) => {
                let dw = context.grads().wanted_address(weight);
                let saved = NormSaved { dy: &d, so_far: so_far.as_ref(), x: &x, w: &w, stats: &[&rstd] };
                cuda::backward(gpu, &saved, dw)?
            }
            None => {
                let mut d = d.into_sole()?;
                let mut unwanted = Vec::new();
                let dw = context.grads().wanted(weight).unwrap_or_else(|| {
                    unwanted.resize(w.len(), 0.0);
                    &mut unwanted
                });
                let (rstd, so_far) = (rstd.f32(), so_far.as_ref());
                on_cpu!(d.dtype(), E => {
                    cpu::backward::<E>(d.values_mut(), dw, rstd, x.values(), w.values(), so_far.map(Tensor::values));
                });
                d
            }
        };
        context.add(ids[1], dx.clone())?;
        context.add(ids[0], dx)
    }
}
