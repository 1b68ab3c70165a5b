//! The log-probabilities of many continuations, in batches, with the same bits however they are batched.
//!
//! What could make a row's arithmetic depend on its neighbours is the shape of a matrix product. So a row is padded at its
//! end to a length that follows from its own length alone (attention is causal: what follows changes nothing before it),
//! and rows of one length pass together. On the CPU a product gives each row the same bits whatever the number of rows, as
//! long as there are more than [`FEW`]; on a GPU the library chooses its algorithm by the number of rows, so there that is
//! fixed. The output layer is only computed where a token is predicted, in blocks of a fixed number of rows
//! ([`Gpt::logits_at`]).

use rayon::prelude::*;

use super::{Choice, ChoiceScore};
use crate::error::Result;
use crate::math;
use crate::model::Gpt;
use crate::tape::Params;
use crate::tensor::Tensor;

/// Rows are padded to a multiple of this many tokens, or to the context length.
const STEP: usize = 32;

/// With this many rows or fewer, the product on the CPU may choose other block sizes than with more.
const FEW: usize = 64;

/// Tokens of a pass on a GPU.
const GPU_TOKENS: usize = 8192;

/// Scores the continuations, in their order.
pub(super) fn score(
    model: &Gpt,
    params: &Params,
    choices: &[&Choice],
    batch: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<ChoiceScore>> {
    let context = model.config().context_length;
    let padded = |choice: &Choice| (choice.tokens.len() - 1).next_multiple_of(STEP).min(context);
    let mut order: Vec<usize> = (0..choices.len()).collect();
    // Stable, so that the order within a length is that of the file.
    order.sort_by_key(|&index| padded(choices[index]));
    let mut scores: Vec<Option<ChoiceScore>> = vec![None; choices.len()];
    let mut done = 0;
    for same in order.chunk_by(|&a, &b| padded(choices[a]) == padded(choices[b])) {
        let t = padded(choices[same[0]]);
        let fixed = params.flat().gpu().is_some().then(|| (GPU_TOKENS / t).max(1));
        for now in same.chunks(fixed.unwrap_or(batch.max(1))) {
            let rows = fixed.unwrap_or(now.len().max(FEW / t + 1));
            let batch: Vec<&Choice> = now.iter().map(|&index| choices[index]).collect();
            for (&index, score) in now.iter().zip(pass(model, params, &batch, rows, t)?) {
                scores[index] = Some(score);
            }
            done += now.len() as u64;
            progress(done, choices.len() as u64);
        }
    }
    Ok(scores.into_iter().flatten().collect())
}

/// One pass of `rows` sequences of `t` tokens, of which the first are `choices` and the others nothing.
fn pass(model: &Gpt, params: &Params, choices: &[&Choice], rows: usize, t: usize) -> Result<Vec<ChoiceScore>> {
    let mut inputs = vec![0; rows * t];
    let (mut places, mut targets) = (Vec::new(), Vec::new());
    for (row, choice) in choices.iter().enumerate() {
        let last = choice.tokens.len() - 1;
        inputs[row * t..][..last].copy_from_slice(&choice.tokens[..last]);
        let first = choice.tokens.len() - choice.predicted;
        targets.extend_from_slice(&choice.tokens[first..]);
        places.extend((first - 1..last).map(|position| row * t + position));
    }
    let inputs = Tensor::from_u32(&inputs, &[rows, t])?;
    let mut found: Vec<(f64, bool)> = Vec::with_capacity(places.len());
    let vocabulary = model.config().vocab_size;
    model.logits_at(params, &inputs, &places, &mut |logits| {
        let targets = &targets[found.len()..][..logits.len() / vocabulary];
        let rows = logits.par_chunks_exact(vocabulary).zip(targets);
        found.par_extend(rows.map(|(logits, &target)| log_probability(logits, target as usize)));
    })?;
    let mut found = &found[..];
    let score = |choice: &&Choice| {
        let (own, rest) = found.split_at(choice.predicted);
        found = rest;
        ChoiceScore {
            log_probability: own.iter().map(|(log_probability, _)| log_probability).sum(),
            tokens: choice.predicted,
            bytes: choice.bytes,
            greedy: own.iter().all(|(_, greedy)| *greedy),
        }
    };
    Ok(choices.iter().map(score).collect())
}

/// The log-probability of `target` under a softmax of `logits`, and whether it is the likeliest (of equals, the first).
/// With a NaN among the logits it is NaN, and nothing is likeliest.
fn log_probability(logits: &[f32], target: usize) -> (f64, bool) {
    const LANES: usize = 8;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0.0f64; LANES];
    for chunk in logits.chunks(LANES) {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(math::exp(logit - max));
        }
    }
    let sum: f64 = lanes.iter().sum();
    let log_probability = f64::from(logits[target]) - f64::from(max) - math::ln(sum);
    let likeliest = logits.iter().position(|&logit| logit == max);
    (log_probability, !log_probability.is_nan() && likeliest == Some(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Python: `torch.log_softmax(torch.tensor([1.0, 3.0, -2.0, 3.0], dtype=torch.float64), 0)`.
    #[test]
    fn log_probabilities_are_those_of_a_softmax() {
        let logits = [1.0, 3.0, -2.0, 3.0];
        let expected = [-2.761_774_159_226_274, -0.761_774_159_226_274, -5.761_774_159_226_275, -0.761_774_159_226_274];
        for (target, expected) in expected.into_iter().enumerate() {
            let (found, likeliest) = log_probability(&logits, target);
            assert!((found - expected).abs() < 1e-6, "{target}: {found}");
            assert_eq!(likeliest, target == 1);
        }
        let (found, likeliest) = log_probability(&[0.0, f32::NAN], 0);
        assert!(found.is_nan() && !likeliest);
    }
}
