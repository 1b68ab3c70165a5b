//! The choice of a token from the candidates that a device has selected: what [`SamplerConfig::choose`] would choose
//! from the whole row of logits, where the candidates are enough to know it.

use super::{Choice, SamplerConfig};
use crate::math;
use crate::ops::candidates::Candidates;
use crate::random::{Purpose, uniform};

impl SamplerConfig {
    /// Chooses the token at `position` of sample number `sample`; None where the rest of the row matters, or has to be
    /// looked at: a repetition penalty, many equal logits, NaN, a draw from the tail. `temperature` must be what the
    /// candidates were made for.
    pub fn choose_among(&self, candidates: &Candidates, sample: u64, position: u64) -> Option<Choice> {
        let Candidates { max, sum, tempered, ref list, whole } = *candidates;
        if self.repetition_penalty != 1.0 || !whole || !max.is_finite() || list.is_empty() {
            return None;
        }
        let index = if self.temperature == 0.0 { 0 } else { self.draw_among(list, tempered, sample, position)? };
        let (token, logit) = list[index];
        Some(Choice { token, logprob: f64::from(logit) - f64::from(max) - math::ln(sum) })
    }

    /// As the draw from the whole row: the weights of the list are the first of the row's in order, and `tempered` is
    /// the sum of them all.
    fn draw_among(&self, list: &[(u32, f32)], tempered: f64, sample: u64, position: u64) -> Option<usize> {
        let top = f64::from(list[0].1);
        let mut weights: Vec<f64> =
            list.iter().map(|&(_, logit)| math::exp64((f64::from(logit) - top) / self.temperature)).collect();
        // The sum of all weights that are still in the game, known or not.
        let mut total = tempered;
        let mut complete = false;
        if let Some(k) = self.top_k {
            if k > weights.len() {
                return None;
            }
            weights.truncate(k);
            (total, complete) = (weights.iter().sum(), true);
        }
        if let Some(p) = self.top_p {
            let (target, mut so_far) = (p * total, 0.0);
            let keep = weights.iter().position(|weight| {
                so_far += weight;
                so_far >= target
            });
            match keep {
                Some(last) => weights.truncate(last + 1),
                None if complete => {}
                None => return None,
            }
            (total, complete) = (weights.iter().sum(), true);
        }
        if let Some(p) = self.min_p {
            match weights.iter().position(|&weight| weight < p) {
                Some(end) => weights.truncate(end.max(1)),
                None if complete => {}
                None => return None,
            }
            (total, complete) = (weights.iter().sum(), true);
        }
        let (target, mut so_far) = (uniform(self.seed, Purpose::Sample, sample, position) * total, 0.0);
        let chosen = weights.iter().position(|weight| {
            so_far += weight;
            so_far > target
        });
        // Rounding can leave the last of them a hair short of the sum.
        chosen.or(complete.then_some(weights.len() - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::candidates::cpu;
    use crate::random::fill_normal;

    /// Whatever is chosen among the candidates is the row's choice; and for the usual rules they are enough.
    #[test]
    fn the_choice_is_that_of_the_whole_row() {
        let mut logits = vec![0.0; 5000];
        fill_normal(1, Purpose::Test, "logits", 0, &mut logits);
        logits.iter_mut().for_each(|logit| *logit *= 3.0);
        let rules = [
            (SamplerConfig { temperature: 0.0, ..Default::default() }, 1.0),
            (SamplerConfig { temperature: 0.7, top_k: Some(50), ..Default::default() }, 1.0),
            (SamplerConfig { temperature: 0.5, top_p: Some(0.9), ..Default::default() }, 1.0),
            (SamplerConfig { temperature: 0.8, min_p: Some(0.05), ..Default::default() }, 1.0),
            (SamplerConfig { top_k: Some(100), top_p: Some(0.8), min_p: Some(0.01), ..Default::default() }, 1.0),
            (SamplerConfig { temperature: 0.6, ..Default::default() }, 0.9),
            (SamplerConfig { repetition_penalty: 1.2, ..Default::default() }, 0.0),
            (SamplerConfig { top_k: Some(4000), ..Default::default() }, 0.0),
        ];
        for (rule, share) in rules {
            let inverse = if rule.temperature > 0.0 { (1.0 / rule.temperature) as f32 } else { 1.0 };
            let candidates = cpu::candidates(&logits, 5000, 5000, &[inverse]).remove(0);
            assert!(candidates.whole && candidates.list.len() >= 256);
            let mut decided = 0;
            for sample in 0..300 {
                let Some(found) = rule.choose_among(&candidates, sample, 3) else { continue };
                let expected = rule.choose(&logits, &[], sample, 3).unwrap();
                assert_eq!(found.token, expected.token, "{rule:?}, sample {sample}");
                assert!((found.logprob - expected.logprob).abs() < 1e-9);
                decided += 1;
            }
            assert!(f64::from(decided) >= share * 300.0, "{rule:?}: {decided} of 300");
            assert!(share > 0.0 || decided == 0, "{rule:?}: {decided} of 300");
        }
    }

    #[test]
    fn equal_logits_and_nan_are_left_to_the_whole_row() {
        let rule = SamplerConfig { temperature: 0.0, ..Default::default() };
        let equal = cpu::candidates(&[1.0; 2000], 2000, 2000, &[1.0]).remove(0);
        assert!(!equal.whole && rule.choose_among(&equal, 0, 0).is_none());
        let mut row = [0.5; 20];
        row[7] = f32::NAN;
        let wrong = cpu::candidates(&row, 20, 20, &[1.0]).remove(0);
        assert!(wrong.max.is_nan() && rule.choose_among(&wrong, 0, 0).is_none());
    }
}
