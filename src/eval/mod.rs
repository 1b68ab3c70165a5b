//! Evaluation: the loss over a token stream, in consecutive windows; benchmarks in [`tasks`].
//!
//! The stream is cut into windows of `context_length` inputs, each predicting its next tokens; the last target of a window
//! is the first input of the next, and the final shorter window counts: N tokens make N - 1 predictions. Losses of rows
//! are added in f64 in the order of the stream, so the result does not depend on the batch size.
//!
//! How sure the mean is, the windows tell: predictions within a window hang together, so windows, not tokens, are the
//! sample, and the standard error is that of a ratio of their sums (Cochran, Sampling Techniques, 1977, section 6.3).

pub mod config;
pub mod tasks;

use crate::data::{Batch, Packed, TokenStream, Window, eval_windows};
use crate::error::{Error, Result};
use crate::math;
use crate::model::Gpt;
use crate::model::gpt::Pass;
use crate::ops::documents::Documents;
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
    /// Number of windows.
    pub windows: u64,
    /// Standard error of the mean loss in nats, over windows; `None` for fewer than two of them.
    pub standard_error: Option<f64>,
}

impl Evaluation {
    /// Mean cross-entropy in nats per prediction.
    pub fn loss(&self) -> f64 {
        self.sum / self.predictions as f64
    }

    /// The ends of the 95% interval of the mean loss: 1.96 standard errors to each side.
    pub fn interval(&self) -> Option<(f64, f64)> {
        let half = NORMAL_95 * self.standard_error?;
        Some((self.loss() - half, self.loss() + half))
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

/// How many standard errors a 95% interval of the normal distribution reaches to each side.
const NORMAL_95: f64 = 1.959_964;

/// The standard error of a mean over all predictions, from the sum and the number of predictions of each window: the
/// variance of sum - mean * number between windows. `None` for fewer than two windows, or if something is not finite.
pub fn standard_error(windows: &[(f64, u64)]) -> Option<f64> {
    let (sum, count) = windows.iter().fold((0.0, 0u64), |(sum, count), window| (sum + window.0, count + window.1));
    if windows.len() < 2 || count == 0 {
        return None;
    }
    let (k, n, mean) = (windows.len() as f64, count as f64, sum / count as f64);
    let squares: f64 = windows.iter().map(|&(sum, count)| (sum - mean * count as f64).powi(2)).sum();
    Some((k / (k - 1.0) * squares).sqrt() / n).filter(|error| error.is_finite())
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
    evaluate_shared(model, params, stream, max_tokens, batch, None, progress)
}

/// One process among several that share an evaluation.
pub struct Share<'a> {
    /// This process, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Gives the losses of all processes, by rank.
    pub gather: &'a mut Gather<'a>,
}

/// Gives everyone's losses, by rank, for one's own.
pub type Gather<'a> = dyn FnMut(&[f32]) -> Result<Vec<Vec<f32>>> + 'a;

/// [`evaluate`] where each process computes every n-th batch, and all have the result, which is the same bits.
///
/// # Errors
/// As [`evaluate`], and those of [`Share::gather`].
pub fn evaluate_shared(
    model: &Gpt,
    params: &Params,
    stream: &TokenStream,
    max_tokens: Option<u64>,
    batch: usize,
    share: Option<Share<'_>>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Evaluation> {
    let tokens = stream.len().min(max_tokens.unwrap_or(u64::MAX));
    if tokens < 2 {
        return Err(Error::usage(format!(
            "there is nothing to predict in a text of {tokens} tokens; at least 2 are needed"
        )));
    }
    let length = model.config().context_length;
    let windows: Vec<_> = eval_windows(tokens, length).collect();
    let mut sum = Sum { total: 0.0, windows: Vec::with_capacity(windows.len()), predictions: 0 };
    let (rank, size) = share.as_ref().map_or((0, 1), |share| (share.rank, share.size));
    // Of several processes, what this one has computed: added up when everyone's is there, in the order of the stream.
    let mut own: Vec<f32> = Vec::new();
    let batches = batches(&windows, batch);
    for (index, &now) in batches.iter().enumerate() {
        let (rows, t) = (now.len(), now[0].inputs);
        if index % size != rank {
            continue;
        }
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
        let losses = loss.on_host()?;
        match size {
            1 => sum.add(losses.f32(), t),
            _ => own.extend_from_slice(losses.f32()),
        }
        progress(sum.predictions, tokens - 1);
    }
    if let Some(share) = share.filter(|share| share.size > 1) {
        let all = (share.gather)(&own)?;
        let mut read = vec![0; size];
        for (index, now) in batches.iter().enumerate() {
            let (rank, t) = (index % size, now[0].inputs);
            let first = read[rank];
            read[rank] += now.len() * t;
            sum.add(&all[rank][first..read[rank]], t);
        }
    }
    Ok(Evaluation {
        sum: sum.total,
        predictions: sum.predictions,
        tokens,
        windows: windows.len() as u64,
        standard_error: standard_error(&sum.windows),
    })
}

/// Losses on their way to an [`Evaluation`].
struct Sum {
    total: f64,
    windows: Vec<(f64, u64)>,
    predictions: u64,
}

impl Sum {
    /// Adds the losses of windows of `t` inputs, row by row, so that the order of the sum is the stream's whatever the
    /// batch.
    fn add(&mut self, losses: &[f32], t: usize) {
        self.total = losses.iter().fold(self.total, |sum, &loss| sum + f64::from(loss));
        let of_row = |row: &[f32]| (row.iter().map(|&loss| f64::from(loss)).sum(), row.len() as u64);
        self.windows.extend(losses.chunks_exact(t).map(of_row));
        self.predictions += losses.len() as u64;
    }
}

/// Consecutive windows of one length, `batch` at most.
fn batches(windows: &[Window], batch: usize) -> Vec<&[Window]> {
    let runs = windows.chunk_by(|a, b| a.inputs == b.inputs);
    runs.flat_map(|run| run.chunks(batch.max(1))).collect()
}

/// Measures the loss over the answers of packed conversations, those of the first rows that hold `max_tokens` tokens (all
/// where None), `batch` rows at once. A row is a window; predictions are the targets that count.
///
/// # Errors
/// If a token is outside the vocabulary, or memory or the device fails.
pub fn evaluate_rows(
    model: &Gpt,
    params: &Params,
    packed: &Packed,
    max_tokens: Option<u64>,
    batch: usize,
) -> Result<Evaluation> {
    let t = packed.context_length();
    let rows = max_tokens.map_or(packed.rows(), |tokens| (tokens / t as u64).clamp(1, packed.rows()));
    let (mut sum, mut sums) = (0.0, Vec::with_capacity(rows as usize));
    for first in (0..rows).step_by(batch.max(1)) {
        let now = first..rows.min(first + batch.max(1) as u64);
        let mut read = Batch::default();
        now.clone().for_each(|row| packed.append(row, &mut read));
        let shape = [(now.end - now.start) as usize, t];
        let documents = Documents::new(&read.begins, shape[0], t, params.flat().device())?;
        let pass = Pass { documents: Some(documents), ..Pass::default() };
        let mut tape = Tape::inference(params);
        let loss = model.loss(&mut tape, &Tensor::from_u32(&read.inputs, &shape)?, &read.targets, 1.0, &pass)?;
        let losses = loss.on_host()?;
        sum = losses.f32().iter().fold(sum, |sum, &loss| sum + f64::from(loss));
        let of_row = |(row, losses): (u64, &[f32])| {
            (losses.iter().map(|&loss| f64::from(loss)).sum::<f64>(), packed.targets_of(row))
        };
        sums.extend(now.zip(losses.f32().chunks_exact(t)).map(of_row));
    }
    let predictions = sums.iter().map(|(_, count)| count).sum();
    let tokens = rows * t as u64;
    Ok(Evaluation { sum, predictions, tokens, windows: rows, standard_error: standard_error(&sums) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Python: `x = [1.0, 2.0, 4.0]; statistics.stdev(x) / len(x) ** 0.5` for windows of one prediction each, and with
    /// numpy for `s, n = [8, 10, 5], [4, 4, 2]`: `r = s.sum() / n.sum(); sqrt(3 / 2 * ((s - r * n) ** 2).sum()) / n.sum()`.
    #[test]
    fn the_standard_error_is_that_of_a_ratio() {
        let near = |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?}");
        near(standard_error(&[(1.0, 1), (2.0, 1), (4.0, 1)]), 0.881_917_103_688_196_8);
        near(standard_error(&[(8.0, 4), (10.0, 4), (5.0, 2)]), 0.183_303_027_798_233_57);
        assert_eq!(standard_error(&[(2.0, 4), (1.0, 2)]), Some(0.0));
        assert_eq!(standard_error(&[(2.0, 4)]), None);
        assert_eq!(standard_error(&[(f64::NAN, 1), (1.0, 1)]), None);
        let one = Evaluation { sum: 20.0, predictions: 10, tokens: 11, windows: 3, standard_error: Some(0.1) };
        let (low, high) = one.interval().unwrap();
        assert!((low - 1.804_003_6).abs() < 1e-9 && (high - 2.195_996_4).abs() < 1e-9);
    }
}
