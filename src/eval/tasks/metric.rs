//! From log-probabilities to scores, each with how sure it is.

use super::{ChoiceScore, ExampleScore, TaskKind};
use crate::math;

/// One number of a benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// "acc", "acc_norm", "acc_norm_tokens" or "perplexity".
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// Its standard error over examples; `None` for fewer than two of them, or where it is not finite.
    pub standard_error: Option<f64>,
    /// The ends of its 95% interval: Wilson's of a share, and of a perplexity that of the mean log-probability.
    pub interval: Option<(f64, f64)>,
}

/// How many standard errors a 95% interval of the normal distribution reaches to each side.
const NORMAL_95: f64 = 1.959_964;

/// The numbers of a benchmark.
pub(super) fn of(kind: TaskKind, examples: &[ExampleScore]) -> Vec<Metric> {
    let share = |name, right: &dyn Fn(&ExampleScore) -> bool| {
        accuracy(name, examples.iter().filter(|example| right(example)).count(), examples.len())
    };
    match kind {
        TaskKind::Lambada => vec![
            share("acc", &|example| example.choices.iter().all(|choice| choice.greedy)),
            perplexity(&examples.iter().map(|e| e.choices[0].log_probability).collect::<Vec<_>>()),
        ],
        TaskKind::Hellaswag | TaskKind::MultipleChoice => {
            let right = |example: &ExampleScore, by: fn(&ChoiceScore) -> f64| best(example, by) == Some(example.answer);
            vec![
                share("acc", &|example| right(example, |choice| choice.log_probability)),
                share("acc_norm", &|example| right(example, |choice| choice.log_probability / choice.bytes as f64)),
                share("acc_norm_tokens", &|example| {
                    right(example, |choice| choice.log_probability / choice.tokens as f64)
                }),
            ]
        }
    }
}

/// The choice with the greatest value, of equals the first; `None` if one is not a number.
fn best(example: &ExampleScore, by: fn(&ChoiceScore) -> f64) -> Option<usize> {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, value) in example.choices.iter().map(by).enumerate() {
        if value.is_nan() {
            return None;
        }
        if value > best.1 {
            best = (index, value);
        }
    }
    Some(best.0)
}

/// A share of `n`: its standard error is sqrt(p (1 - p) / (n - 1)), its interval Wilson's (1927), which stays within 0
/// and 1 and does not close where all or none are right.
fn accuracy(name: &'static str, right: usize, n: usize) -> Metric {
    let (p, n, z) = (right as f64 / n as f64, n as f64, NORMAL_95);
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    Metric {
        name,
        value: p,
        standard_error: (n >= 2.0).then(|| (p * (1.0 - p) / (n - 1.0)).sqrt()),
        // At both ends the formula gives exactly 0 and 1, but for rounding.
        interval: Some((
            if right == 0 { 0.0 } else { middle - half },
            if n == right as f64 { 1.0 } else { middle + half },
        )),
    }
}

/// `exp` of the mean negative log-probability of a word. Its standard error is that of the mean times the perplexity (the
/// delta method), its interval the exponential of the mean's.
fn perplexity(log_probabilities: &[f64]) -> Metric {
    let n = log_probabilities.len() as f64;
    let mean = -log_probabilities.iter().sum::<f64>() / n;
    let squares: f64 = log_probabilities.iter().map(|value| (value + mean).powi(2)).sum();
    let error = (n >= 2.0).then(|| (squares / (n - 1.0) / n).sqrt()).filter(|error| error.is_finite());
    let value = math::exp64(mean);
    Metric {
        name: "perplexity",
        value,
        standard_error: error.map(|error| error * value).filter(|error| error.is_finite()),
        interval: error.map(|error| (math::exp64(mean - NORMAL_95 * error), math::exp64(mean + NORMAL_95 * error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0), "{found} and not {expected}");
    }

    /// Python: `scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")` for 3 of 10 and 0 of 5; the perplexity by
    /// `numpy.exp(-x.mean())` and `x.std(ddof=1) / len(x) ** 0.5`.
    #[test]
    fn shares_and_perplexities_have_their_errors() {
        let some = accuracy("acc", 3, 10);
        near(some.standard_error.unwrap(), (0.3f64 * 0.7 / 9.0).sqrt());
        let (low, high) = some.interval.unwrap();
        near(low, 0.107_791_267_406_301);
        near(high, 0.603_221_852_538_855);
        let none = accuracy("acc", 0, 5);
        assert_eq!((none.value, none.standard_error, none.interval.unwrap().0), (0.0, Some(0.0), 0.0));
        near(none.interval.unwrap().1, 0.434_482_464_783_175);
        assert_eq!(accuracy("acc", 1, 1).standard_error, None);
        let words = perplexity(&[-1.0, -2.0, -4.0]);
        near(words.value, (7.0f64 / 3.0).exp());
        near(words.standard_error.unwrap() / words.value, 0.881_917_103_688_196_8);
        let infinite = perplexity(&[-1.0, f64::NEG_INFINITY]);
        assert_eq!((infinite.value, infinite.standard_error), (f64::INFINITY, None));
    }

    #[test]
    fn the_likeliest_choice_is_the_first_of_equals_and_none_with_a_nan() {
        let example = |values: &[f64]| ExampleScore {
            line: 1,
            answer: 0,
            choices: values
                .iter()
                .map(|&log_probability| ChoiceScore { log_probability, tokens: 1, bytes: 1, greedy: false })
                .collect(),
        };
        let by = |choice: &ChoiceScore| choice.log_probability;
        assert_eq!(best(&example(&[-3.0, -1.0, -1.0]), by), Some(1));
        assert_eq!(best(&example(&[f64::NEG_INFINITY, f64::NEG_INFINITY]), by), Some(0));
        assert_eq!(best(&example(&[-1.0, f64::NAN]), by), None);
    }
}
