//! The special functions under the tests: log-gamma, regularised incomplete beta, erfc, and with them the normal and
//! Student t distributions. Everything is plain arithmetic on [`crate::math`], so the digits do not depend on a C library.
//!
//! The incomplete beta and gamma functions are evaluated by their continued fractions in Lentz's form (DLMF 8.17.22 and
//! 8.9.2; Thompson and Barnett 1986) where those converge fast, and by symmetry or series elsewhere.

use crate::math;
use std::f64::consts::{PI, SQRT_2};

/// Steps of a continued fraction or series before it is taken as converged; a few dozen are needed.
const MAX_TERMS: usize = 2000;
/// What a vanishing denominator is replaced with in Lentz's method.
const TINY: f64 = 1e-300;

/// The logarithm of the gamma function for `x > 0`; relative error below 1e-13 (Stirling's series, DLMF 5.11.1, shifted
/// up by the recurrence where `x` is small).
pub fn ln_gamma(x: f64) -> f64 {
    let (mut shift, mut x) = (1.0, x);
    while x < 12.0 {
        shift *= x;
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    // Bernoulli numbers B_2k / (2k (2k - 1)).
    let series = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0, 1.0 / 156.0];
    let tail = series.iter().rev().fold(0.0, |sum, term| sum * inverse + term) / x;
    (x - 0.5) * math::ln(x) - x + 0.5 * math::ln(2.0 * PI) + tail - math::ln(shift)
}

/// The regularised incomplete beta function `I_x(a, b)` for `a, b > 0` and `0 <= x <= 1`.
pub fn beta_inc(a: f64, b: f64, x: f64) -> f64 {
    if x.is_nan() || x <= 0.0 || x >= 1.0 {
        return if x >= 1.0 { 1.0 } else { x * 0.0 };
    }
    // The fraction converges fast below the mean; the other side by symmetry.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta_inc(b, a, 1.0 - x);
    }
    let log = a * math::ln(x) + b * math::ln(1.0 - x) + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    let guard = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..MAX_TERMS {
        let m = m as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = fraction;
        for term in [even, odd] {
            d = 1.0 / guard(1.0 + term * d);
            c = guard(1.0 + term / c);
            fraction *= c * d;
        }
        if (fraction - before).abs() <= 1e-16 * fraction.abs() {
            break;
        }
    }
    math::exp64(log) * fraction / a
}

/// The complementary error function.
pub fn erfc(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x > 27.0 {
        return 0.0;
    }
    let square = x * x;
    if x < 2.0 {
        // erf(x) = 2/sqrt(pi) e^(-x^2) sum of 2^n x^(2n+1) / (2n+1)!! (DLMF 7.6.2): all terms positive.
        let (mut term, mut sum) = (x, x);
        for n in 1..MAX_TERMS {
            term *= 2.0 * square / (2.0 * n as f64 + 1.0);
            sum += term;
            if term <= 1e-17 * sum {
                break;
            }
        }
        return 1.0 - 2.0 / PI.sqrt() * math::exp64(-square) * sum;
    }
    // Gamma(1/2, x^2) / sqrt(pi) by its continued fraction.
    let mut b = square + 0.5;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut fraction = d;
    for i in 1..MAX_TERMS {
        let i = i as f64;
        let a = -i * (i - 0.5);
        b += 2.0;
        d = 1.0 / (a * d + b);
        c = b + a / c;
        fraction *= c * d;
        if (c * d - 1.0).abs() < 1e-16 {
            break;
        }
    }
    math::exp64(-square) * x * fraction / PI.sqrt()
}

/// The standard normal distribution function.
pub fn normal_cdf(z: f64) -> f64 {
    0.5 * erfc(-z / SQRT_2)
}

/// The probability that Student's t with `df` degrees of freedom (any positive number) is at most `t`.
pub fn t_cdf(t: f64, df: f64) -> f64 {
    let tail = 0.5 * t_two_sided(t, df);
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// The probability that |T| is at least `|t|`: the two-sided p value. No cancellation in the far tail.
pub fn t_two_sided(t: f64, df: f64) -> f64 {
    if t.is_nan() || df.is_nan() {
        return f64::NAN;
    }
    if t.is_infinite() {
        return 0.0;
    }
    beta_inc(0.5 * df, 0.5, df / (df + t * t))
}

/// The two-sided critical value: the `t` with probability `alpha` of `|T| >= t`, for `0 < alpha <= 1`.
pub fn t_critical(alpha: f64, df: f64) -> f64 {
    if !(alpha > 0.0 && alpha <= 1.0 && df > 0.0) {
        return f64::NAN;
    }
    let mut high = 1.0;
    while t_two_sided(high, df) > alpha {
        high *= 2.0;
        if high > 1e300 {
            return f64::INFINITY;
        }
    }
    let mut low = 0.0;
    // The tail probability falls monotonically: halving the bracket ends at neighbouring numbers.
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if t_two_sided(middle, df) > alpha { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}
