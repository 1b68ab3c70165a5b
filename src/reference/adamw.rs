//! AdamW on the reference engine, step by step as PyTorch has it.
//!
//! Decoupled weight decay (Loshchilov and Hutter 2019) on every tensor of two or more dimensions, embeddings included (the
//! nanoGPT rule); gradients scaled down to a global norm first. The norm is computed in float64 and the moments stand in
//! the model's precision. `tests/engine/reference.rs` compares 20 steps with `torch.optim.AdamW`.

use super::explain;
use super::model::Reference;
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};

/// The settings of AdamW that do not change from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay rate of the mean of gradients.
    pub beta1: f64,
    /// Decay rate of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment, after bias correction.
    pub eps: f64,
    /// Decoupled decay, multiplied by the learning rate, on tensors of two or more dimensions.
    pub weight_decay: f64,
    /// The largest global gradient norm, or none.
    pub clip_norm: Option<f64>,
}

/// What one step of training did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutcome {
    /// The mean loss of the step's batch, before the update.
    pub loss: f64,
    /// The global gradient norm before clipping.
    pub grad_norm: f64,
    /// Whether the parameters were updated; not when the loss or the norm is not finite.
    pub applied: bool,
}

/// The first and second moment of one parameter, row-major.
pub type Moments = (Vec<f32>, Vec<f32>);

/// A reference model with its optimizer.
pub struct ReferenceTrainer {
    model: Reference,
    settings: AdamWSettings,
    /// (first moment, second moment) of each parameter, in arena order.
    moments: Vec<(Tensor, Tensor)>,
    /// Updates applied so far (Adam's t).
    updates: u64,
}

impl ReferenceTrainer {
    /// A trainer with moments at zero.
    ///
    /// # Errors
    /// Only candle's own.
    pub fn new(model: Reference, settings: AdamWSettings) -> Result<ReferenceTrainer> {
        let moments = model
            .variables()
            .map(|(_, variable)| {
                let zeros = explain(variable.zeros_like())?;
                Ok((zeros.clone(), zeros))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(ReferenceTrainer { model, settings, moments, updates: 0 })
    }

    /// The model as it stands.
    pub fn model(&self) -> &Reference {
        &self.model
    }

    /// What must be kept, next to the parameters, to continue later: the updates applied so far, and the two moments of each
    /// parameter in arena order, rounded to float32.
    ///
    /// # Errors
    /// Only candle's own.
    pub fn state(&self) -> Result<(u64, Vec<Moments>)> {
        let values = |t: &Tensor| explain(t.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1()));
        let moments = self.moments.iter().map(|(m, v)| Ok((values(m)?, values(v)?))).collect::<Result<Vec<_>>>()?;
        Ok((self.updates, moments))
    }

    /// Takes up a state from [`ReferenceTrainer::state`].
    ///
    /// # Errors
    /// `Training` if it is of another shape; the trainer is then unchanged.
    pub fn restore(&mut self, updates: u64, moments: &[Moments]) -> Result<()> {
        if moments.len() != self.moments.len() {
            return Err(Error::Training(format!(
                "an optimizer state of {} parameters does not fit a model of {}",
                moments.len(),
                self.moments.len()
            )));
        }
        let mut restored = Vec::with_capacity(moments.len());
        for ((name, variable), (m, v)) in self.model.variables().zip(moments) {
            let tensor = |values: &[f32]| {
                if values.len() != variable.elem_count() {
                    return Err(Error::Training(format!(
                        "the optimizer state of {name} has {} values, and the parameter {}",
                        values.len(),
                        variable.elem_count()
                    )));
                }
                explain(
                    Tensor::from_slice(values, variable.dims(), variable.device())
                        .and_then(|t| t.to_dtype(variable.dtype())),
                )
            };
            restored.push((tensor(m)?, tensor(v)?));
        }
        (self.updates, self.moments) = (updates, restored);
        Ok(())
    }

    /// Takes one optimizer step on the mean loss of `batches`, each (tokens `[B, T]`, targets `[B, T]`): more than one is
    /// gradient accumulation.
    ///
    /// # Errors
    /// As [`Reference::logits`]; the parameters are then unchanged.
    pub fn step(&mut self, batches: &[(&[u32], &[u32])], b: usize, t: usize, lr: f64) -> Result<StepOutcome> {
        if batches.is_empty() {
            return Err(Error::Training("a training step needs at least one batch".into()));
        }
        let mut loss = 0.0;
        let mut grads: Vec<Tensor> = Vec::new();
        for (tokens, targets) in batches {
            let (batch_loss, batch_grads) = self.model.gradient_tensors(tokens, targets, b, t)?;
            loss += batch_loss;
            grads = if grads.is_empty() {
                batch_grads
            } else {
                grads.iter().zip(&batch_grads).map(|(sum, g)| explain(sum + g)).collect::<Result<_>>()?
            };
        }
        let share = 1.0 / batches.len() as f64;
        loss *= share;
        let mut square_sum = 0.0;
        for grad in &grads {
            square_sum += explain(sum_of_squares(grad))?;
        }
        let grad_norm = square_sum.sqrt() * share;
        let applied = loss.is_finite() && grad_norm.is_finite();
        if applied {
            // The 1e-6 is PyTorch's clip_grad_norm_.
            let clip = self.settings.clip_norm.map_or(1.0, |clip| (clip / (grad_norm + 1e-6)).min(1.0));
            explain(self.update(&grads, share * clip, lr))?;
        }
        Ok(StepOutcome { loss, grad_norm, applied })
    }

    fn update(&mut self, grads: &[Tensor], scale: f64, lr: f64) -> candle_core::Result<()> {
        let AdamWSettings { beta1, beta2, eps, weight_decay, .. } = self.settings;
        self.updates += 1;
        let correction_1 = 1.0 - beta1.powf(self.updates as f64);
        let correction_2 = 1.0 - beta2.powf(self.updates as f64);
        for (((_, variable), grad), (m, v)) in self.model.variables().zip(grads).zip(&mut self.moments) {
            let grad = (grad * scale)?;
            *m = ((&*m * beta1)? + (&grad * (1.0 - beta1))?)?;
            *v = ((&*v * beta2)? + (grad.sqr()? * (1.0 - beta2))?)?;
            let denominator = ((v.sqrt()? / correction_2.sqrt())? + eps)?;
            let decay = if variable.rank() >= 2 { lr * weight_decay } else { 0.0 };
            let moved = ((variable.as_tensor() * (1.0 - decay))? - ((&*m / denominator)? * (lr / correction_1))?)?;
            // Detached: the next step's graph must not reach back into this one.
            variable.set(&moved.detach())?;
            (*m, *v) = (m.detach(), v.detach());
        }
        Ok(())
    }
}

fn sum_of_squares(tensor: &Tensor) -> candle_core::Result<f64> {
    tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()
}
