//! Squared ReLU, `y = max(x, 0)^2` (So et al., "Primer", 2021).

pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::tape::{Backward, Context, Tape, Var};
use crate::tensor::Tensor;

/// The squared ReLU of every element of `x`, any shape. The input is kept for the backward, shared.
///
/// # Errors
/// If memory or the device fails.
pub fn relu2(tape: &mut Tape<'_>, x: &Var) -> Result<Var> {
    let mut y = Tensor::empty(x.value().device(), x.value().dtype(), x.value().shape())?;
    match x.value().gpu() {
        None => cpu::forward(y.f32_mut(), x.value().f32()),
        Some(gpu) => cuda::forward(gpu, &mut y, x.value())?,
    }
    Ok(tape.record(&[], y, || Box::new(Relu2 { x: x.clone() })))
}

struct Relu2 {
    x: Var,
}

impl Backward for Relu2 {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let d = douts.pop().expect("one output");
        let dx = match d.gpu() {
            None => {
                let mut d = d.into_sole()?;
                cpu::backward(d.f32_mut(), self.x.value().f32());
                d
            }
            Some(gpu) => cuda::backward(gpu, d, self.x.value())?,
        };
        context.add(self.x.id(), dx)
    }
}
