//! Residual addition: `y = x + delta`, in place of `delta` where nobody else needs it.
//!
//! The norms can make this sum themselves ([`super::layernorm::add_layernorm`], [`super::rmsnorm::add_rmsnorm`]); what they
//! share for it stands here.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::ops::element::{Element, on_cpu};
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
        None => on_cpu!(y.dtype(), E => cpu::forward::<E>(y.values_mut(), x.value().values())),
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

/// Adds `x` to `sum` where there is one, and gives what a norm then reads: the sum, else `x`.
pub(super) fn sum_on_cpu<'t, E: Element>(x: &'t Tensor, sum: Option<&'t mut Tensor>) -> &'t [E] {
    match sum {
        None => x.values(),
        Some(sum) => {
            cpu::forward::<E>(sum.values_mut(), x.values());
            sum.values()
        }
    }
}

/// What comes back to a norm.
pub(super) struct Incoming {
    /// The gradient of its output.
    pub d: Tensor,
    /// What has come back for its input along the residual stream, to be added to the norm's own share.
    pub so_far: Option<Tensor>,
}

impl Incoming {
    /// From the gradients of a norm's outputs (the sum first, where it made one); a norm of a given value takes what
    /// has come back for that value, `input`.
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn new(mut douts: Vec<Option<Tensor>>, input: Option<VarId>, context: &mut Context<'_>) -> Result<Incoming> {
        let d = douts.pop().flatten();
        let so_far = match douts.pop() {
            Some(of_sum) => of_sum,
            None if d.is_some() => context.take(input),
            None => None,
        };
        let d = match (d, &so_far) {
            (Some(d), _) => d,
            (None, Some(like)) => Tensor::zeros(like.device(), like.dtype(), like.shape())?,
            (None, None) => unreachable!("the tape calls with at least one gradient"),
        };
        Ok(Incoming { d, so_far })
    }
}
