//! Layer normalization: `y = (x - mean) / sqrt(variance + eps) * weight + bias` over the last axis (Ba et al. 2016).
//!
//! The variance is that of the population (divided by C), in a second pass over the row, so that a large common offset
//! does not cancel it away. Kept for the backward: the input, shared with the residual stream, and two numbers for a row.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::ops::element::on_cpu;
use crate::ops::launch::NormSaved;
use crate::ops::residual::{self, Incoming};
use crate::tape::{Backward, Context, ParamId, Params, Tape, Var, VarId};
use crate::tensor::{DType, Tensor};

/// Normalizes `x` [.., C] over its last axis, then scales by `weight` `[C]` and shifts by `bias` `[C]` where there is one.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the last axis of `x` is not C.
pub fn layernorm(tape: &mut Tape<'_>, x: &Var, weight: ParamId, bias: Option<ParamId>, eps: f32) -> Result<Var> {
    let norm = Norm { weight, bias, eps };
    let (y, mean, rstd) = norm.forward(tape.params(), x.value(), None)?;
    let (ids, x) = ([x.id(), None], x.value());
    Ok(tape.record(&norm.used(), y, || Box::new(LayerNorm { x: x.clone(), ids, norm, mean, rstd })))
}

/// The residual sum `x + delta` and its [`layernorm`], in this order, in one pass over memory on a GPU. `delta`'s memory
/// becomes the sum's if it is not shared. The same bits as the two operators apart.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the shapes differ, or their last axis is not C.
pub fn add_layernorm(
    tape: &mut Tape<'_>,
    x: &Var,
    delta: Var,
    weight: ParamId,
    bias: Option<ParamId>,
    eps: f32,
) -> Result<[Var; 2]> {
    assert_eq!(x.value().shape(), delta.value().shape(), "add_layernorm: shapes");
    let norm = Norm { weight, bias, eps };
    let ids = [x.id(), delta.id()];
    let mut sum = delta.into_value().into_sole()?;
    let (y, mean, rstd) = norm.forward(tape.params(), x.value(), Some(&mut sum))?;
    Ok(tape.record_many(&norm.used(), [sum.clone(), y], || Box::new(LayerNorm { x: sum, ids, norm, mean, rstd })))
}

#[derive(Clone, Copy)]
struct Norm {
    weight: ParamId,
    bias: Option<ParamId>,
    eps: f32,
}

impl Norm {
    fn used(&self) -> Vec<ParamId> {
        std::iter::once(self.weight).chain(self.bias).collect()
    }

    /// The output, mean and inverse standard deviation of `x`, or of `sum` after `x` has been added to it.
    fn forward(&self, params: &Params, x: &Tensor, sum: Option<&mut Tensor>) -> Result<(Tensor, Tensor, Tensor)> {
        let (w, b) = (params.weight(self.weight), self.bias.map(|bias| params.weight(bias)));
        assert_eq!(x.last(), w.len(), "layernorm: width");
        let mut y = Tensor::empty(x.device(), x.dtype(), x.shape())?;
        let mut mean = Tensor::empty(x.device(), DType::F32, &[x.rows()])?;
        let mut rstd = Tensor::empty(x.device(), DType::F32, &[x.rows()])?;
        match x.gpu() {
            None => on_cpu!(y.dtype(), E => {
                let x = residual::sum_on_cpu::<E>(x, sum);
                let stats = (mean.f32_mut(), rstd.f32_mut());
                cpu::forward(y.values_mut(), stats, x, w.values(), b.as_ref().map(Tensor::values), self.eps);
            }),
            Some(gpu) => cuda::forward(gpu, &mut y, (&mut mean, &mut rstd), x, sum, &w, b.as_ref(), self.eps)?,
        }
        Ok((y, mean, rstd))
    }
}

struct LayerNorm {
    /// What was normalized.
    x: Tensor,
    /// Whose gradient its own is: that of one value, or of the two terms of a sum.
    ids: [Option<VarId>; 2],
    norm: Norm,
    mean: Tensor,
    rstd: Tensor,
}

impl Backward for LayerNorm {
    fn backward(self: Box<Self>, douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        self.backward_some(douts.into_iter().map(Some).collect(), context)
    }

    fn backward_some(self: Box<Self>, douts: Vec<Option<Tensor>>, context: &mut Context<'_>) -> Result<()> {
        let Self { x, ids, norm, mean, rstd } = *self;
        let Incoming { d, so_far } = Incoming::new(douts, ids[0], context)?;
        let w = context.params().weight(norm.weight);
        let grads = context.grads();
        let dx = match d.gpu() {
            Some(gpu) => {
                let dw = grads.wanted_address(norm.weight);
                let db = norm.bias.and_then(|bias| grads.wanted_address(bias));
                let saved = NormSaved { dy: &d, so_far: so_far.as_ref(), x: &x, w: &w, stats: &[&mean, &rstd] };
                cuda::backward(gpu, &saved, (dw, db))?
            }
            None => {
                let mut d = d.into_sole()?;
                let (stats, so_far) = ((mean.f32(), rstd.f32()), so_far.as_ref());
                let partial = on_cpu!(d.dtype(), E => {
                    cpu::backward::<E>(d.values_mut(), stats, x.values(), w.values(), so_far.map(Tensor::values))
                });
                if let Some(dw) = grads.wanted(norm.weight) {
                    cpu::add_partial(dw, &partial, 0);
                }
                if let Some(db) = norm.bias.and_then(|bias| grads.wanted(bias)) {
                    cpu::add_partial(db, &partial, 1);
                }
                d
            }
        };
        context.add(ids[1], dx.clone())?;
        context.add(ids[0], dx)
    }
}
