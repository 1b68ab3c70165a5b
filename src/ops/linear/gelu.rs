//! Two linear layers with GELU between them, as one operator on a GPU: GELU and its gradient are computed inside the
//! products that make their inputs, and save two passes over the widest activation of the model.
//!
//! It is used only where a table of matrix products says so, because the library's GELU rounds otherwise than ours and is
//! slow on some GPUs.

use super::Linear;
use crate::device::launch::{Epilogue, Product};
use crate::error::Result;
use crate::ops::linear::cuda::{self, matrix};
use crate::tape::{Backward, Context, ParamId, Tape, Var};
use crate::tensor::Tensor;

/// A layer's weight [out, in] and bias `[out]`.
pub type Layer = (ParamId, Option<ParamId>);

/// `gelu(x up) down` with the tanh form of GELU, `x` [.., I]; None where the device does not do this in one go (the
/// CPU, or a GPU whose table is not for it), and then the three operators apart must.
///
/// # Errors
/// If memory or the device fails.
pub fn gelu_mlp(tape: &mut Tape<'_>, x: &Var, up: Layer, down: Layer) -> Result<Option<Var>> {
    let Some(gpu) = x.value().gpu().filter(|gpu| gpu.gelu_epilogue()) else { return Ok(None) };
    let params = tape.params();
    let (w, b) = (params.weight(up.0), up.1.map(|bias| params.weight(bias)));
    let input = x.value();
    let mut shape = input.shape().to_vec();
    *shape.last_mut().expect("a tensor with an axis") = w.shape()[0];
    let mut before = Tensor::empty(input.device(), input.dtype(), &shape)?;
    let mut inner = Tensor::empty(input.device(), input.dtype(), &shape)?;
    if !input.is_empty() {
        let out = matrix(inner.address_mut(), &inner);
        let product = Product::set(out, matrix(input.address(), input), matrix(w.address(), &w).t());
        let epilogue = Epilogue::Gelu { input: before.address_mut() };
        gpu.driver().multiply(&Product { bias: b.as_ref().map(Tensor::address), epilogue, ..product })?;
    }
    let (w, b) = (params.weight(down.0), down.1.map(|bias| params.weight(bias)));
    let y = super::forward(&inner, &w, b.as_ref())?;
    let used: Vec<ParamId> =
        [up, down].into_iter().flat_map(|(weight, bias)| std::iter::once(weight).chain(bias)).collect();
    Ok(Some(tape.record(&used, y, || Box::new(GeluMlp { x: x.clone(), before, inner, up, down }))))
}

struct GeluMlp {
    x: Var,
    /// What GELU was taken of.
    before: Tensor,
    /// GELU of that.
    inner: Tensor,
    up: Layer,
    down: Layer,
}

impl Backward for GeluMlp {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let Self { x, before, inner, up, down } = *self;
        let dy = douts.pop().expect("one output");
        let gpu = dy.gpu().expect("the forward was on a GPU");
        let w = context.params().weight(down.0);
        let mut dbefore = Tensor::empty(dy.device(), dy.dtype(), before.shape())?;
        if !dy.is_empty() {
            let out = matrix(dbefore.address_mut(), &dbefore);
            let product = Product::set(out, matrix(dy.address(), &dy), matrix(w.address(), &w));
            gpu.driver()
                .multiply(&Product { epilogue: Epilogue::GeluBackward { input: before.address() }, ..product })?;
        }
        let grads = context.grads();
        let addresses = |grads: &mut crate::tape::Gradients, (weight, bias): Layer| {
            (grads.wanted_address(weight), bias.and_then(|bias| grads.wanted_address(bias)))
        };
        cuda::backward_params(gpu, addresses(grads, down), &dy, &inner, &w)?;
        drop((inner, before, dy));
        // What is left is a linear layer's way back.
        Box::new(Linear { x, weight: up.0, bias: up.1 }).backward(vec![dbefore], context)
    }
}
