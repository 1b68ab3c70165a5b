//! Two groups of numbers compared: the paired t test, Welch's t test, and Holm's correction for many comparisons.

use super::special::{t_critical, t_two_sided};
use super::{mean, variance};

/// How the difference was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Differences of runs that share a seed.
    Paired,
    /// Means of groups that share none, with variances of their own (Welch 1947).
    Welch,
    /// Means of groups that share none, with one variance (Student).
    Pooled,
}

/// The difference of two means and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// How it was measured.
    pub method: Method,
    /// Treated minus baseline.
    pub difference: f64,
    /// The standard error of the difference.
    pub standard_error: f64,
    /// Degrees of freedom: whole for pairs, Satterthwaite's fraction for Welch.
    pub df: f64,
    /// Two-sided p value of "no difference"; 1 where nothing varies at all and nothing differs.
    pub p: f64,
    /// How many pairs, or the size of the treated group.
    pub n: usize,
}

impl Difference {
    /// The two-sided confidence interval at `1 - alpha`.
    pub fn interval(&self, alpha: f64) -> (f64, f64) {
        let reach = t_critical(alpha, self.df) * self.standard_error;
        (self.difference - reach, self.difference + reach)
    }

    fn new(method: Method, difference: f64, standard_error: f64, df: f64, n: usize) -> Self {
        let p = match standard_error > 0.0 {
            true => t_two_sided(difference / standard_error, df),
            // Not a single bit of variation: equal is equal, and a constant shift is certain.
            false => f64::from(difference == 0.0),
        };
        Self { method, difference, standard_error, df, p, n }
    }
}

/// The paired t test of `pairs` (baseline, treated): difference `d = mean(treated - baseline)`, standard error
/// `s_d / sqrt(n)`, n - 1 degrees of freedom. `None` for fewer than two pairs.
pub fn paired(pairs: &[(f64, f64)]) -> Option<Difference> {
    if pairs.len() < 2 {
        return None;
    }
    let differences: Vec<f64> = pairs.iter().map(|(before, after)| after - before).collect();
    let n = differences.len();
    let error = (variance(&differences) / n as f64).sqrt();
    Some(Difference::new(Method::Paired, mean(&differences), error, (n - 1) as f64, n))
}

/// Welch's t test: standard error `sqrt(v0/n0 + v1/n1)`, degrees of freedom after Satterthwaite (1946). `None` where a
/// group has fewer than two values.
pub fn welch(baseline: &[f64], treated: &[f64]) -> Option<Difference> {
    if baseline.len() < 2 || treated.len() < 2 {
        return None;
    }
    let (n0, n1) = (baseline.len() as f64, treated.len() as f64);
    let (e0, e1) = (variance(baseline) / n0, variance(treated) / n1);
    let df = match e0 + e1 > 0.0 {
        true => (e0 + e1) * (e0 + e1) / (e0 * e0 / (n0 - 1.0) + e1 * e1 / (n1 - 1.0)),
        false => n0 + n1 - 2.0,
    };
    let difference = mean(treated) - mean(baseline);
    Some(Difference::new(Method::Welch, difference, (e0 + e1).sqrt(), df, treated.len()))
}

/// Student's t test with the variance of both groups together and n0 + n1 - 2 degrees of freedom. `None` where a group has
/// fewer than two values.
pub fn pooled(baseline: &[f64], treated: &[f64]) -> Option<Difference> {
    if baseline.len() < 2 || treated.len() < 2 {
        return None;
    }
    let (n0, n1) = (baseline.len() as f64, treated.len() as f64);
    let df = n0 + n1 - 2.0;
    let together = ((n0 - 1.0) * variance(baseline) + (n1 - 1.0) * variance(treated)) / df;
    let error = (together * (1.0 / n0 + 1.0 / n1)).sqrt();
    Some(Difference::new(Method::Pooled, mean(treated) - mean(baseline), error, df, treated.len()))
}

/// Two groups without shared seeds, as reports compare them: of [`welch`] and [`pooled`] the one that is less sure.
///
/// Welch's alone is too sure of a tiny group next to a larger one (three seeds against ten call a difference in 8% of
/// A/A sweeps of three arms: `tests/cli/stats.rs`); Student's alone is exact there, but wrong where the groups vary
/// differently. For groups of the same size this is always Welch's.
pub fn independent(baseline: &[f64], treated: &[f64]) -> Option<Difference> {
    let (welch, pooled) = (welch(baseline, treated)?, pooled(baseline, treated)?);
    Some(if pooled.p > welch.p { pooled } else { welch })
}

/// Holm's step-down correction (Holm 1979): p values such that calling every one at most alpha a difference is wrong
/// anywhere in the family with probability at most alpha, however the comparisons depend on each other. Same order as
/// given. NaN counts as 1.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    let value = |i: usize| if p[i].is_nan() { 1.0 } else { p[i] };
    order.sort_by(|&a, &b| value(a).total_cmp(&value(b)));
    let mut corrected = vec![1.0; p.len()];
    let mut most = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        most = most.max(value(i) * (p.len() - rank) as f64).min(1.0);
        corrected[i] = most;
    }
    corrected
}
