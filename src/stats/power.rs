//! What a design can see: the power of the t test, the smallest effect it detects, the number of seeds a decision needs.
//!
//! Exact for normal noise: under a true difference the t statistic follows the noncentral t distribution, which is
//! integrated numerically here, `P(T <= t) = integral of Phi(t x - delta) f(x) dx` over the density `f` of the estimated
//! standard deviation relative to the true one.

use super::special::{ln_gamma, normal_cdf, t_critical};
use crate::math;

/// Intervals of Simpson's rule; a fixed number, so that the answer is a smooth function of its arguments.
const INTERVALS: usize = 400;
/// More seeds than anybody trains: beyond it the answer is "many".
pub const MAX_SEEDS: usize = 10_000;

/// The distribution function of the noncentral t with `df` degrees of freedom and noncentrality `delta`.
pub fn noncentral_t_cdf(t: f64, df: f64, delta: f64) -> f64 {
    // x^2 df is chi-square: mode near 1, and nothing left beyond twelve deviations.
    let spread = (1.0 / (2.0 * df)).sqrt();
    let (low, high) = ((1.0 - 10.0 * spread).max(0.0), 1.0 + 10.0 * spread);
    let constant = math::ln(2.0) + 0.5 * df * math::ln(0.5 * df) - ln_gamma(0.5 * df);
    // x = low + (high - low) u^2: the square takes the edge off x^(df - 1) at zero.
    let integrand = |u: f64| {
        let x = low + (high - low) * u * u;
        if x <= 0.0 || u <= 0.0 {
            return 0.0;
        }
        let density = math::exp64(constant + (df - 1.0) * math::ln(x) - 0.5 * df * x * x);
        density * normal_cdf(t * x - delta) * 2.0 * (high - low) * u
    };
    let h = 1.0 / INTERVALS as f64;
    let inner: f64 = (1..INTERVALS).map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * integrand(i as f64 * h)).sum();
    ((integrand(0.0) + inner + integrand(1.0)) * h / 3.0).clamp(0.0, 1.0)
}

/// The probability that a two-sided t test at level `alpha` calls a true difference of `effect`, given the standard error
/// of the measured difference and its degrees of freedom.
pub fn power(effect: f64, standard_error: f64, df: f64, alpha: f64) -> f64 {
    if standard_error <= 0.0 {
        return f64::from(u8::from(effect != 0.0));
    }
    let (delta, critical) = (effect.abs() / standard_error, t_critical(alpha, df));
    1.0 - noncentral_t_cdf(critical, df, delta) + noncentral_t_cdf(-critical, df, delta)
}

/// The smallest true difference that is called with probability `wanted`, in the unit of `standard_error`.
pub fn smallest_effect(standard_error: f64, df: f64, alpha: f64, wanted: f64) -> f64 {
    if standard_error.is_nan() || standard_error <= 0.0 || df.is_nan() || df <= 0.0 {
        return if standard_error == 0.0 { 0.0 } else { f64::NAN };
    }
    // In units of the standard error.
    let (mut low, mut high) = (0.0, 4.0);
    while power(high, 1.0, df, alpha) < wanted {
        high *= 2.0;
    }
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        if power(middle, 1.0, df, alpha) < wanted { low = middle } else { high = middle }
    }
    high * standard_error
}

/// How many pairs (or seeds in each of two groups) see a true difference of `effect` with probability `wanted`. `deviation`
/// is that of one paired difference: for two groups, `sqrt(v0 + v1)`; `df` gives the degrees of freedom of n. `None` if
/// more than [`MAX_SEEDS`].
pub fn seeds_needed(effect: f64, deviation: f64, alpha: f64, wanted: f64, df: impl Fn(usize) -> f64) -> Option<usize> {
    let enough = |n: usize| power(effect, deviation / (n as f64).sqrt(), df(n), alpha) >= wanted;
    if effect == 0.0 || deviation.is_nan() || !enough(MAX_SEEDS) {
        return None;
    }
    let (mut low, mut high) = (1, MAX_SEEDS);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}
