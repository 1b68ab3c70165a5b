//! A correction of low rank to a linear layer: `y += scale * (x A^T) B^T` on some columns of `y` (Hu et al., "LoRA:
//! low-rank adaptation of large language models", 2021).
//!
//! Two thin products, which the way back undoes: `dB += scale dy^T h`, `dh = scale dy B`, `dA += dh^T x`, `dx += dh A`, with
//! `h = x A^T` kept (R numbers a row). The gradient of `y` itself passes through as it is.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::ops::element::on_cpu;
use crate::tape::{Backward, Context, ParamId, Tape, Var, VarId};
use crate::tensor::Tensor;

/// Adds to the columns `first..first + O'` of `y` [.., O] the product of `x` [.., I] with `down` [R, I] and `up` [O', R],
/// both transposed, times `scale`. `y`'s memory becomes the result's if it is not shared.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the shapes do not fit.
pub fn low_rank(
    tape: &mut Tape<'_>,
    y: Var,
    x: &Var,
    (down, up): (ParamId, ParamId),
    first: usize,
    scale: f32,
) -> Result<Var> {
    let params = tape.params();
    let (a, b) = (params.weight(down), params.weight(up));
    let input = x.value();
    assert_eq!((input.last(), a.shape()[0]), (a.shape()[1], b.shape()[1]), "low rank: shapes of the factors");
    assert_eq!(input.rows(), y.value().rows(), "low rank: rows");
    assert!(first + b.shape()[0] <= y.value().last(), "low rank: columns");
    let id = y.id();
    let mut out = y.into_value().into_sole()?;
    let mut h = Tensor::empty(input.device(), input.dtype(), &[input.rows(), a.shape()[0]])?;
    match input.gpu() {
        None => on_cpu!(input.dtype(), E => {
            let factors = (a.values::<E>(), b.values());
            cpu::forward(out.values_mut(), h.values_mut(), input.values(), factors, input.rows(), first, scale);
        }),
        Some(gpu) => cuda::forward(gpu, &mut out, &mut h, input, (&a, &b), first, scale)?,
    }
    Ok(tape.record(&[down, up], out, || Box::new(LowRank { id, x: x.clone(), h, down, up, first, scale })))
}

struct LowRank {
    id: Option<VarId>,
    x: Var,
    h: Tensor,
    down: ParamId,
    up: ParamId,
    first: usize,
    scale: f32,
}

impl Backward for LowRank {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let dy = douts.pop().expect("one output");
        let LowRank { id, x, h, down, up, first, scale } = *self;
        let (a, b) = (context.params().weight(down), context.params().weight(up));
        let input = x.value();
        let mut dh = Tensor::empty(input.device(), input.dtype(), h.shape())?;
        // What came back for `x` before is added to in the same product.
        let (mut dx, add) = match context.take(x.id()) {
            Some(sum) => (sum.into_sole()?, true),
            None => (Tensor::empty(input.device(), input.dtype(), input.shape())?, false),
        };
        match input.gpu() {
            None => on_cpu!(input.dtype(), E => {
                let (dy, n, grads) = (dy.values::<E>(), input.rows(), context.grads());
                cpu::backward_up(grads.of_mut(up), dh.values_mut(), dy, h.values(), b.values(), n, first, scale);
                let (dh, x) = (dh.values::<E>(), input.values());
                cpu::backward_down(grads.of_mut(down), dx.values_mut(), add, dh, x, a.values(), n);
            }),
            Some(gpu) => {
                let grads = context.grads();
                let sums = (grads.address_mut(down), grads.address_mut(up));
                let saved = cuda::Saved { x: input, h: &h, a: &a, b: &b };
                cuda::backward(gpu, (&mut dx, add), &mut dh, sums, &dy, &saved, (first, scale))?;
            }
        }
        context.add(x.id(), dx)?;
        context.add(id, dy)
    }
}
