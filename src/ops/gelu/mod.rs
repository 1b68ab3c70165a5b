//! GELU, `y = x Phi(x)` with `Phi` the normal distribution function, exact or by the tanh approximation (Hendrycks and
//! Gimpel, "Gaussian error linear units", 2016).
//!
//! Only the input is kept, and that is shared with whoever made it: the backward computes the rest again.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::ops::element::on_cpu;
use crate::tape::{Backward, Context, Tape, Var};
use crate::tensor::Tensor;

/// Which GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, as GPT-2 has it (PyTorch: `approximate="tanh"`).
    Tanh,
    /// `x/2 (1 + erf(x / sqrt(2)))`, the exact one.
    Erf,
}

/// GELU of every element of `x`, any shape.
///
/// # Errors
/// If memory or the device fails.
pub fn gelu(tape: &mut Tape<'_>, x: &Var, kind: Kind) -> Result<Var> {
    let mut y = Tensor::empty(x.value().device(), x.value().dtype(), x.value().shape())?;
    match x.value().gpu() {
        None => on_cpu!(y.dtype(), E => cpu::forward::<E>(y.values_mut(), x.value().values(), kind)),
        Some(gpu) => cuda::forward(gpu, &mut y, x.value(), kind)?,
    }
    Ok(tape.record(&[], y, || Box::new(Gelu { x: x.clone(), kind })))
}

struct Gelu {
    x: Var,
    kind: Kind,
}

impl Backward for Gelu {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let d = douts.pop().expect("one output");
        let dx = match d.gpu() {
            None => {
                let mut d = d.into_sole()?;
                on_cpu!(d.dtype(), E => cpu::backward::<E>(d.values_mut(), self.x.value().values(), self.kind));
                d
            }
            Some(gpu) => cuda::backward(gpu, d, self.x.value(), self.kind)?,
        };
        context.add(self.x.id(), dx)
    }
}
