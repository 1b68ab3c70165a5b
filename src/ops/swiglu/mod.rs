//! SwiGLU, `y = silu(gate) * up` (Shazeer, "GLU variants improve transformer", 2020), on the output of one linear layer
//! that holds both halves.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::ops::element::on_cpu;
use crate::tape::{Backward, Context, Tape, Var};
use crate::tensor::Tensor;

/// `silu(gate) * up` [.., M] of `gate_up` [.., 2M], the gate in the first half of each row. Only the input is kept.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the last axis is odd.
pub fn swiglu(tape: &mut Tape<'_>, gate_up: &Var) -> Result<Var> {
    let input = gate_up.value();
    assert_eq!(input.last() % 2, 0, "swiglu: gate and up have one width");
    let mut shape = input.shape().to_vec();
    *shape.last_mut().expect("a tensor with an axis") /= 2;
    let mut y = Tensor::empty(input.device(), input.dtype(), &shape)?;
    match input.gpu() {
        None => on_cpu!(y.dtype(), E => cpu::forward::<E>(y.values_mut(), input.values(), shape[shape.len() - 1])),
        Some(gpu) => cuda::forward(gpu, &mut y, input)?,
    }
    Ok(tape.record(&[], y, || Box::new(SwiGlu { gate_up: gate_up.clone() })))
}

struct SwiGlu {
    gate_up: Var,
}

impl Backward for SwiGlu {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let dy = douts.pop().expect("one output");
        let input = self.gate_up.value();
        let mut dx = Tensor::empty(input.device(), input.dtype(), input.shape())?;
        match input.gpu() {
            None => on_cpu!(dx.dtype(), E => {
                cpu::backward::<E>(dx.values_mut(), dy.values(), input.values(), dy.last());
            }),
            Some(gpu) => cuda::backward(gpu, &mut dx, &dy, input)?,
        }
        context.add(self.gate_up.id(), dx)
    }
}
