//! Residual addition: `y = x + delta`, in place of `delta` where nobody else needs it.

pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::tape::{Backward, Context, Tape, Var, VarId};
use crate::tensor::Tensor;

/// The sum of two tensors of one shape. `delta`'s memory becomes the result's if it is not shared.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the shapes differ.
pub fn residual(tape: &mut Tape<'_>, x: &Var, delta: Var) -> Result<Var> {
    assert_eq!(x.value().shape(), delta.value().shape(), "residual: shapes");
    let ids = [x.id(), delta.id()];
    let mut y = delta.into_value().into_sole()?;
    match y.gpu() {
        None => cpu::forward(y.f32_mut(), x.value().f32()),
        Some(gpu) => cuda::forward(gpu, &mut y, x.value())?,
    }
    Ok(tape.record(&[], y, || Box::new(Residual { ids })))
}

struct Residual {
    ids: [Option<VarId>; 2],
}

impl Backward for Residual {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        // The gradient of a sum goes to both terms as it is: the tensor is shared, not copied.
        let dy = douts.pop().expect("one output");
        context.add(self.ids[0], dy.clone())?;
        context.add(self.ids[1], dy)
    }
}
