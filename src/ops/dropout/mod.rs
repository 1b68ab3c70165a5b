//! Dropout as a function of the place (Srivastava et al. 2014): [`Mask`] says for every element of every sequence whether
//! it is kept, so nothing is saved, and the mask does not depend on how the batch was cut.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::ops::element::on_cpu;
use crate::random::Mask;
use crate::tape::{Backward, Context, Tape, Var, VarId};
use crate::tensor::Tensor;

/// Drops elements of `x` [B, T, C] and scales the others up, in place where nobody else needs `x`. `sequences` `[B]` holds
/// the index of each row of the batch in the whole step; element `t C + c` of a sequence is the mask's element. A dropped
/// NaN or infinity stays visible as NaN.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If `x` does not have as many rows of the batch as there are `sequences`.
pub fn dropout(tape: &mut Tape<'_>, x: Var, mask: Mask, sequences: &[u32]) -> Result<Var> {
    assert_eq!(x.value().shape()[0], sequences.len(), "dropout: sequences of the batch");
    if mask.keeps_all() {
        return Ok(x);
    }
    let id = x.id();
    let mut y = x.into_value().into_sole()?;
    match y.gpu() {
        None => on_cpu!(y.dtype(), E => cpu::apply::<E>(y.values_mut(), mask, sequences)),
        Some(gpu) => cuda::apply(gpu, &mut y, mask, sequences)?,
    }
    Ok(tape.record(&[], y, || Box::new(Dropout { id, mask, sequences: sequences.to_vec() })))
}

struct Dropout {
    id: Option<VarId>,
    mask: Mask,
    sequences: Vec<u32>,
}

impl Backward for Dropout {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let mut d = douts.pop().expect("one output").into_sole()?;
        match d.gpu() {
            None => on_cpu!(d.dtype(), E => cpu::apply::<E>(d.values_mut(), self.mask, &self.sequences)),
            Some(gpu) => cuda::apply(gpu, &mut d, self.mask, &self.sequences)?,
        }
        context.add(self.id, d)
    }
}
