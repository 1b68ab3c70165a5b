//! Linear layer: `y = x W^T + b` with `W` [out, in], as PyTorch's `nn.Linear` stores it.

pub mod cost;
pub mod cpu;
pub mod cuda;
pub mod gelu;

use crate::error::Result;
use crate::ops::element::on_cpu;
use crate::tape::{Backward, Context, ParamId, Tape, Var};
use crate::tensor::{DType, Tensor};

/// `x` [.., I] times the transpose of `weight` [O, I], plus `bias` `[O]` where there is one; gives [.., O].
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the last axis of `x` is not I.
pub fn linear(tape: &mut Tape<'_>, x: &Var, weight: ParamId, bias: Option<ParamId>) -> Result<Var> {
    let params = tape.params();
    let (w, b) = (params.weight(weight), bias.map(|bias| params.weight(bias)));
    let y = forward(x.value(), &w, b.as_ref())?;
    let used: Vec<ParamId> = std::iter::once(weight).chain(bias).collect();
    Ok(tape.record(&used, y, || Box::new(Linear { x: x.clone(), weight, bias })))
}

/// The product without a tape; see [`linear`].
///
/// # Errors
/// If memory or the device fails.
pub fn forward(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    forward_as(x, w, b, x.dtype())
}

fn forward_as(x: &Tensor, w: &Tensor, b: Option<&Tensor>, dtype: DType) -> Result<Tensor> {
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("a tensor with an axis") = w.shape()[0];
    assert_eq!(x.last(), w.shape()[1], "linear: input width");
    let mut y = Tensor::empty(x.device(), dtype, &shape)?;
    match x.gpu() {
        None if dtype != x.dtype() => {
            assert!(b.is_none(), "linear: a bias is in the dtype of the result");
            on_cpu!(x.dtype(), E => cpu::product(y.f32_mut(), x.values::<E>(), w.values(), x.rows()));
        }
        None => on_cpu!(dtype, E => {
            cpu::forward::<E>(y.values_mut(), x.values(), w.values(), b.map(Tensor::values), x.rows());
        }),
        Some(gpu) => cuda::forward(gpu, &mut y, x, w, b)?,
    }
    Ok(y)
}

/// The product [.., O] in f32, whatever the dtype of `x` [.., I] and `w` [O, I]: logits to choose from should not be
/// rounded.
///
/// # Errors
/// If memory or the device fails.
pub fn forward_f32(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    forward_as(x, w, None, DType::F32)
}

struct Linear {
    x: Var,
    weight: ParamId,
    bias: Option<ParamId>,
}

impl Backward for Linear {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let dy = douts.pop().expect("one output");
        let (x, w) = (self.x.value(), context.params().weight(self.weight));
        let mut dx = Tensor::empty(x.device(), x.dtype(), x.shape())?;
        match x.gpu() {
            None => on_cpu!(x.dtype(), E => {
                let dy = dy.values::<E>();
                cpu::backward_input(dx.values_mut(), dy, w.values(), x.rows());
                if let Some(dw) = context.grads().wanted(self.weight) {
                    cpu::backward_weight(dw, dy, x.values(), x.rows());
                }
                if let Some(db) = self.bias.and_then(|bias| context.grads().wanted(bias)) {
                    cpu::backward_bias(db, dy);
                }
            }),
            Some(gpu) => {
                let grads = context.grads();
                let dw = grads.wanted_address(self.weight);
                let db = self.bias.and_then(|bias| grads.wanted_address(bias));
                cuda::backward(gpu, &mut dx, (dw, db), &dy, x, &w)?;
            }
        }
        context.add(self.x.id(), dx)
    }
}
