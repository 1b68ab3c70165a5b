//! From logits to a token.
//!
//! The order is fixed and documented, because it changes the result: repetition penalty (Keskar et al. 2019), then
//! temperature, then top-k (Fan et al. 2018), then top-p (Holtzman et al. 2020), then min-p (Nguyen et al. 2024), then a
//! draw. Temperature 0 is greedy: the highest logit after the penalty, the lower id on a tie. A draw is a function of
//! (seed, sample, position): the same text comes out whatever else is generated next to it. Fifty thousand tokens are never
//! sorted for it (see `descending`).

use super::descending::{Descending, Prefix, SCRATCH, Scratch, exponentials};
use crate::error::{Error, Result};
use crate::math;
use crate::random::{Purpose, uniform};

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerConfig {
    /// Logits are divided by this; 0 is greedy.
    pub temperature: f64,
    /// Keep this many of the most likely tokens.
    pub top_k: Option<usize>,
    /// Keep the fewest most likely tokens whose probabilities reach this sum.
    pub top_p: Option<f64>,
    /// Keep tokens at least this likely relative to the most likely one.
    pub min_p: Option<f64>,
    /// Logits of tokens that occurred already are divided (where positive) or multiplied (where negative) by this; 1 is off.
    pub repetition_penalty: f64,
    /// The seed of the draws.
    pub seed: u64,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        let (top_k, top_p, min_p) = (None, None, None);
        SamplerConfig { temperature: 1.0, top_k, top_p, min_p, repetition_penalty: 1.0, seed: 0 }
    }
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its id.
    pub token: u32,
    /// Its log-probability under the model: of the plain softmax, before penalty, temperature and cuts.
    pub logprob: f64,
}

impl SamplerConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// A `Usage` error that names the option and its range.
    pub fn validate(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::usage(what.to_string()));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong("temperature must be a number of at least 0 (0 is greedy)");
        }
        if self.top_k == Some(0) {
            return wrong("top-k must be at least 1; leave it out to consider all tokens");
        }
        if self.top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
            return wrong("top-p must be above 0 and at most 1");
        }
        if self.min_p.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            return wrong("min-p must be from 0 to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return wrong("repetition-penalty must be above 0 (1 is off)");
        }
        Ok(())
    }

    /// Chooses the token at `position` of sample number `sample`, given the logits `[V]` and the tokens so far.
    ///
    /// # Errors
    /// If the logits hold NaN, or no token is possible: a model that has diverged.
    pub fn choose(&self, logits: &[f32], history: &[u32], sample: u64, position: u64) -> Result<Choice> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(Error::Training(format!(
                "the model's logits at position {position} are not numbers: its weights have diverged"
            )));
        }
        let token = SCRATCH.with_borrow_mut(|scratch| {
            scratch.scores.clear();
            scratch.scores.extend(logits.iter().map(|&logit| f64::from(logit)));
            self.penalise(scratch, history);
            match self.temperature {
                0.0 => Ok(first_largest(&scratch.scores)),
                _ => self.draw(scratch, sample, position),
            }
        })?;
        Ok(Choice { token: token as u32, logprob: log_probability(logits, token) })
    }

    fn penalise(&self, scratch: &mut Scratch, history: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let Scratch { scores, order: seen, .. } = scratch;
        seen.clear();
        seen.extend_from_slice(history);
        seen.sort_unstable();
        seen.dedup();
        for &id in seen.iter() {
            if let Some(score) = scores.get_mut(id as usize) {
                *score = if *score > 0.0 { *score / self.repetition_penalty } else { *score * self.repetition_penalty };
            }
        }
    }

    fn draw(&self, scratch: &mut Scratch, sample: u64, position: u64) -> Result<usize> {
        let top = scratch.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if !top.is_finite() {
            return Err(Error::Training(format!(
                "the model gives no token at position {position} a probability: its weights have diverged"
            )));
        }
        if let Some(k) = self.top_k.filter(|&k| k < scratch.scores.len()) {
            scratch.keep_largest(k);
        } else {
            let Scratch { scores, order, .. } = scratch;
            order.clear();
            order.extend(0..scores.len() as u32);
        }
        let mut weights = Descending::new(scratch, top, self.temperature);
        let mut kept = Prefix { sum: weights.total, last: weights.least() };
        if let Some(p) = self.top_p {
            let target = p * weights.total;
            kept = weights.reach(|sum| sum >= target).unwrap_or(kept);
        }
        if let Some(p) = self.min_p {
            // The most likely token has weight 1.
            let likely = weights.at_least(p);
            if weights.before(likely.last, kept.last) {
                kept = likely;
            }
        }
        let target = uniform(self.seed, Purpose::Sample, sample, position) * kept.sum;
        let chosen = weights.reach(|sum| sum > target).map_or(kept.last, |prefix| prefix.last);
        // Sums of the same weights in two orders differ by a rounding.
        Ok(if weights.before(kept.last, chosen) { kept.last } else { chosen } as usize)
    }
}

/// The first of the largest.
fn first_largest(scores: &[f64]) -> usize {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter().position(|&score| score == top).unwrap_or(0)
}

fn log_probability(logits: &[f32], token: usize) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum = exponentials(logits, f64::from(top));
    f64::from(logits[token]) - f64::from(top) - math::ln(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(config: &SamplerConfig, logits: &[f32], n: u64) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for sample in 0..n {
            counts[config.choose(logits, &[], sample, 0).unwrap().token as usize] += 1.0 / n as f64;
        }
        counts
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [1.0f32, 0.0, 2.0, -1.0];
        for temperature in [0.5, 1.0, 2.0] {
            let weights: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let config = SamplerConfig { temperature, ..Default::default() };
            for (found, weight) in frequencies(&config, &logits, 20_000).iter().zip(&weights) {
                assert!((found - weight / total).abs() < 0.015, "{found} against {}", weight / total);
            }
        }
    }

    #[test]
    fn greedy_cuts_and_penalty() {
        let logits = [1.0f32, 3.0, 3.0, -1.0];
        let greedy = SamplerConfig { temperature: 0.0, ..Default::default() };
        let choice = greedy.choose(&logits, &[], 0, 0).unwrap();
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        assert_eq!(choice.token, 1);
        assert!((choice.logprob - (3.0 - total.ln())).abs() < 1e-12);
        let penalised = SamplerConfig { temperature: 0.0, repetition_penalty: 2.0, ..Default::default() };
        assert_eq!(penalised.choose(&logits, &[1, 1], 0, 0).unwrap().token, 2);

        let top2 = SamplerConfig { top_k: Some(2), ..Default::default() };
        assert!(
            frequencies(&top2, &logits, 2_000)
                .iter()
                .zip([false, true, true, false])
                .all(|(&f, kept)| (f > 0.0) == kept)
        );
        // 3 and 3 hold 0.466 each: 0.4 keeps one of them, 0.5 both.
        for (p, kept) in [(0.4, 1), (0.5, 2), (0.95, 3)] {
            let nucleus = SamplerConfig { top_p: Some(p), ..Default::default() };
            assert_eq!(frequencies(&nucleus, &logits, 2_000).iter().filter(|&&f| f > 0.0).count(), kept, "{p}");
        }
        let min = SamplerConfig { min_p: Some(0.2), ..Default::default() };
        assert_eq!(frequencies(&min, &logits, 2_000).iter().filter(|&&f| f > 0.0).count(), 2);
        assert!(greedy.choose(&[f32::NAN, 0.0], &[], 0, 0).is_err());
    }

    /// The rules in the plainest way: sort everything.
    fn by_sorting(config: &SamplerConfig, scores: &[f64], sample: u64, position: u64) -> usize {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        order.truncate(config.top_k.unwrap_or(usize::MAX));
        let top = scores[order[0]];
        let mut weights: Vec<f64> = order.iter().map(|&id| ((scores[id] - top) / config.temperature).exp()).collect();
        if let Some(p) = config.top_p {
            let (target, mut sum) = (p * weights.iter().sum::<f64>(), 0.0);
            let enough = weights.iter().position(|weight| {
                sum += weight;
                sum >= target
            });
            weights.truncate(enough.map_or(usize::MAX, |last| last + 1));
        }
        if let Some(p) = config.min_p {
            weights.truncate(weights.iter().position(|&weight| weight < p).unwrap_or(usize::MAX).max(1));
        }
        let target = uniform(config.seed, Purpose::Sample, sample, position) * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let chosen = weights.iter().position(|weight| {
            sum += weight;
            sum > target
        });
        order[chosen.unwrap_or(weights.len() - 1)]
    }

    #[test]
    fn buckets_choose_what_sorting_chooses() {
        for (case, spread) in [0.0f32, 0.5, 3.0, 30.0, 900.0].into_iter().enumerate() {
            // Many equals among them, so that ties are met.
            let value = |i: usize| (uniform(case as u64, Purpose::Test, 0, i as u64) * 400.0).floor() as f32 / 400.0;
            let logits: Vec<f32> = (0..3000).map(|i| (value(i) - 0.5) * spread).collect();
            let scores: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
            for config in [
                SamplerConfig::default(),
                SamplerConfig { temperature: 0.3, ..Default::default() },
                SamplerConfig { top_p: Some(0.7), ..Default::default() },
                SamplerConfig { min_p: Some(0.3), ..Default::default() },
                SamplerConfig { min_p: Some(1.0), ..Default::default() },
                SamplerConfig { top_k: Some(5), ..Default::default() },
                SamplerConfig { top_k: Some(700), top_p: Some(0.9), min_p: Some(0.01), ..Default::default() },
                SamplerConfig { top_p: Some(1e-9), temperature: 2.0, ..Default::default() },
                SamplerConfig { top_p: Some(0.5), min_p: Some(0.6), ..Default::default() },
            ] {
                for sample in 0..60 {
                    let found = config.choose(&logits, &[], sample, 3).unwrap().token as usize;
                    assert_eq!(found, by_sorting(&config, &scores, sample, 3), "{config:?}, spread {spread}");
                }
            }
        }
    }

    #[test]
    fn bad_options_are_refused() {
        let bad = [
            SamplerConfig { temperature: -1.0, ..Default::default() },
            SamplerConfig { top_k: Some(0), ..Default::default() },
            SamplerConfig { top_p: Some(0.0), ..Default::default() },
            SamplerConfig { min_p: Some(2.0), ..Default::default() },
            SamplerConfig { repetition_penalty: 0.0, ..Default::default() },
        ];
        assert!(bad.iter().all(|config| config.validate().is_err_and(|error| error.exit_code() == 2)));
        assert!(SamplerConfig::default().validate().is_ok());
    }
}
