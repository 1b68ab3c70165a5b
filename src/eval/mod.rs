//! Evaluation: the loss over a token stream, in consecutive windows.
//!
//! The stream is cut into windows of `context_length` inputs, each predicting its next tokens; the last target of a window
//! is the first input of the next, and the final shorter window counts: N tokens make N - 1 predictions. Losses of rows
//! are added in f64 in the order of the stream, so the result does not depend on the batch size.

pub mod config;

use crate::data::{TokenStream, eval_windows};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::math;
use crate::model::Gpt;
use crate::model::gpt::Pass;
use crate::tape::{Params, Tape};
use crate::tensor::Tensor;

/// The loss over a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Sum of the cross-entropies in nats.
    pub sum: f64,
    /// Number of predictions.
    pub predictions: u64,
    /// Number of tokens.
    pub tokens: u64,
}

impl Evaluation {
    /// Mean cross-entropy in nats per prediction.
    pub fn loss(&self) -> f64 {
        self.sum / self.predictions as f64
    }

    /// `e^loss`.
    pub fn perplexity(&self) -> f64 {
        math::exp64(self.loss())
    }

    /// Bits per byte of text, where the text has `bytes` bytes.
    pub fn bits_per_byte(&self, bytes: u64) -> f64 {
        self.sum / std::f64::consts::LN_2 / bytes as f64
    }
}

/// Measures the loss over the first `max_tokens` tokens of a stream (all of it where None), `batch` windows at once.
/// `progress` is called with predictions made and in all.
///
/// # Errors
/// If the stream has fewer than two tokens, or holds an id outside the vocabulary.
pub fn evaluate(
    model: &Gpt,
    params: &Params,
    stream: &TokenStream,
    max_tokens: Option<u64>,
    batch: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Evaluation> {
    let tokens = stream.len().min(max_tokens.unwrap_or(u64::MAX));
    if tokens < 2 {
        return Err(Error::usage(format!(
            "there is nothing to predict in a text of {tokens} tokens; at least 2 are needed"
        )));
    }
    let length = model.config().context_length;
    let mut evaluation = Evaluation { sum: 0.0, predictions: 0, tokens };
    let windows: Vec<_> = eval_windows(tokens, length).collect();
    let mut rest = &windows[..];
    while let Some(first) = rest.first() {
        let rows = rest.iter().take(batch.max(1)).take_while(|window| window.inputs == first.inputs).count();
        let (now, later) = rest.split_at(rows);
        rest = later;
        let t = first.inputs;
        let (mut inputs, mut targets) = (Vec::with_capacity(rows * t), Vec::with_capacity(rows * t));
        let mut buffer = vec![0; t + 1];
        for window in now {
            stream.read(window.start, &mut buffer)?;
            inputs.extend_from_slice(&buffer[..t]);
            targets.extend_from_slice(&buffer[1..]);
        }
        let mut tape = Tape::inference(params);
        let inputs = Tensor::from_u32(&inputs, &[rows, t])?;
        let loss = model.loss(&mut tape, &inputs, &targets, 1.0, &Pass::default())?;
        // Row by row, so that the order of the sum is the stream's whatever the batch.
        let losses = loss.losses.to_device(Device::Cpu)?;
        evaluation.sum = losses.f32().iter().fold(evaluation.sum, |sum, &loss| sum + f64::from(loss));
        evaluation.predictions += (rows * t) as u64;
        progress(evaluation.predictions, tokens - 1);
    }
    Ok(evaluation)
}
