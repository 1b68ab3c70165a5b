//! Squared ReLU, `y = max(x, 0)^2` (So et al., "Primer", 2021).

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::ops::element::on_cpu;
use crate::tape::{Backward, Context, Tape, Var};
use crate::tensor::Tensor;

/// The squared ReLU of every element of `x`, any shape. The input is kept for the backward, shared.
///
/// # Errors
/// If memory or the device fails.
pub fn relu2(tape: &mut Tape<'_>, x: &Var) -> Result<Var> {
    let mut y = Tensor::empty(x.value().device(), x.value().dtype(), x.value().shape())?;
    match x.value().gpu() {
        None => on_cpu!(y.dtype(), E => cpu::forward::<E>(y.values_mut(), x.value().values())),
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
                on_cpu!(d.dtype(), E => cpu::backward::<E>(d.values_mut(), self.x.value().values()));
                d
            }
            Some(gpu) => cuda::backward(gpu, d, self.x.value())?,
        };
        context.add(self.x.id(), dx)
    }
}
