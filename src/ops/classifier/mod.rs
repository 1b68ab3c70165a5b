//! Fused classifier: output layer, softmax and cross-entropy in one operator that never holds all logits.
//!
//! Rows go through in chunks: logits of a chunk by one product, loss and gradient in place, then at once the two products
//! of the way back (into the gradient of `x`, and added to the weight's). So neither the logits nor their gradient of the
//! whole batch ever stand in memory, and nothing is computed twice (the idea of Liger-Kernel's fused linear cross-entropy).
//! It is the end of the forward pass, and its gradient is known there up to a factor that the caller gives as `scale`.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::element::on_cpu;
use crate::tape::{Backward, Context, ParamId, Tape, Var, VarId};
use crate::tensor::{DType, Tensor};

/// A target that counts for nothing: its loss and gradient are zero.
pub const IGNORE: u32 = u32::MAX;

/// Losses of a batch of rows.
#[derive(Debug)]
pub struct Loss {
    /// The cross-entropy of each row, in nats and without its weight, f32 `[N]`: the log-probability of the target,
    /// negated; 0 for ignored rows.
    pub losses: Tensor,
    /// What each row's loss counts in the sum, f32 `[N]` on the device of the losses; `None` if all count 1.
    pub weights: Option<Tensor>,
    /// Rows that were not ignored.
    pub count: usize,
    /// The root for `Tape::backward` (with a gradient of any one element, which is not read).
    pub root: Var,
}

impl Loss {
    /// The sum of the losses, each with its weight, added in f64 in row order. From a GPU it waits.
    ///
    /// # Errors
    /// If the device fails.
    pub fn sum(&self) -> Result<f64> {
        let losses = self.on_host()?;
        let losses = losses.f32().iter().map(|&loss| f64::from(loss));
        match &self.weights {
            None => Ok(losses.sum()),
            Some(weights) => {
                let weights = weights.to_device(Device::Cpu)?;
                Ok(losses.zip(weights.f32()).map(|(loss, &weight)| f64::from(weight) * loss).sum())
            }
        }
    }

    /// The log-probability of each row's target, in nats; 0 for ignored rows. From a GPU it waits.
    ///
    /// # Errors
    /// If the device fails.
    pub fn log_probabilities(&self) -> Result<Vec<f32>> {
        Ok(self.on_host()?.f32().iter().map(|&loss| 0.0 - loss).collect())
    }

    /// The losses in host memory. From a GPU it waits.
    ///
    /// # Errors
    /// If the device fails.
    pub fn on_host(&self) -> Result<Tensor> {
        self.losses.to_device(Device::Cpu)
    }
}

/// What the gradient of the summed losses is multiplied with.
#[derive(Clone, Copy, Debug)]
pub struct Scale<'t> {
    /// A number that the host knows: one over the tokens of the step.
    pub by: f32,
    /// A number on the device, f32 `[1]`: the loss scale of fp16.
    pub loss_scale: Option<&'t Tensor>,
}

/// The cross-entropy of `x` [.., C] times the transpose of `weight` [V, C] against `targets` (N ids). Products run over the
/// weight's spare rows too, whose logits count as minus infinity: their probability and gradient are exactly zero.
/// On a training tape the gradient of the scaled `sum(losses)` is computed as well.
///
/// # Errors
/// If a target is not below V (nor [`IGNORE`]), or inside a recomputed block, or if memory or the device fails.
pub fn classifier(tape: &mut Tape<'_>, x: &Var, weight: ParamId, targets: &[u32], scale: Scale<'_>) -> Result<Loss> {
    classifier_weighted(tape, x, weight, targets, &[], scale)
}

/// [`classifier`] with a weight for each row (or none: then all are 1), which its loss counts in the sum, and so its gradient.
///
/// # Errors
/// As [`classifier`].
pub fn classifier_weighted(
    tape: &mut Tape<'_>,
    x: &Var,
    weight: ParamId,
    targets: &[u32],
    weights: &[f32],
    scale: Scale<'_>,
) -> Result<Loss> {
    let w = tape.params().padded_weight(weight);
    let (n, v) = (x.value().rows(), tape.params().layout().info(weight).shape[0]);
    assert_eq!((n, x.value().last()), (targets.len(), w.shape()[1]), "classifier: shapes");
    assert!(weights.is_empty() || weights.len() == n, "classifier: {} weights of {n} rows", weights.len());
    if let Some(place) = targets.iter().position(|&id| id as usize >= v && id != IGNORE) {
        return Err(Error::Training(format!(
            "target {} at row {place} is outside the vocabulary of {v}",
            targets[place]
        )));
    }
    let device = x.value().device();
    let mut losses = Tensor::empty(device, DType::F32, &[n])?;
    let on_device = || Tensor::from_f32(weights, &[n])?.to_device(device);
    let row_weights = (!weights.is_empty()).then(on_device).transpose()?;
    let mut dx = None;
    let input = x.value();
    if tape.is_recording() {
        let mut tensor = Tensor::empty(device, input.dtype(), input.shape())?;
        let Some(grads) = tape.grads() else {
            return Err(Error::Training("the classifier cannot stand inside a recomputed block".into()));
        };
        match input.gpu() {
            None => on_cpu!(input.dtype(), E => {
                let (losses, dw, dx) = (losses.f32_mut(), grads.wanted_padded(weight), tensor.values_mut::<E>());
                cpu::forward_backward(losses, dx, dw, input.values(), w.values(), targets, weights, v, scale.by);
            }),
            Some(gpu) => {
                let back = cuda::Back {
                    dx: &mut tensor,
                    dw: grads.wanted_address(weight),
                    weights: row_weights.as_ref(),
                    scale,
                };
                cuda::forward(gpu, &mut losses, input, (&w, v), targets, Some(back))?;
            }
        }
        dx = Some(tensor);
    } else {
        match input.gpu() {
            None => on_cpu!(input.dtype(), E => {
                cpu::forward::<E>(losses.f32_mut(), input.values(), w.values(), targets, v);
            }),
            Some(gpu) => cuda::forward(gpu, &mut losses, input, (&w, v), targets, None)?,
        }
    }
    let count = targets.iter().filter(|&&id| id != IGNORE).count();
    let id = x.id();
    let root = tape.record(&[weight], losses.view(0, &[n]), || Box::new(Classifier { id, dx }));
    Ok(Loss { losses, weights: row_weights, count, root })
}

struct Classifier {
    id: Option<VarId>,
    dx: Option<Tensor>,
}

impl Backward for Classifier {
    fn backward(self: Box<Self>, _douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        match self.dx {
            Some(dx) => context.add(self.id, dx),
            None => Ok(()),
        }
    }
}
