//! Our own exp, log, sin, cos and erf: the same bits on every machine.
//!
//! The C library's versions differ between machines (and its vector versions between calls), so a training run built on
//! them would not be reproducible. These are plain arithmetic in a fixed order. The `f32` functions are branch-free and
//! inlined, so that loops over them vectorise; they never use fused multiply-add, because Rust does not contract
//! `a * b + c` on its own, and so the same source gives the same bits with SSE2, AVX2, AVX-512 or NEON.
//! The `f64` functions are for tables and per-row scalars, where speed does not matter.

use std::f64::consts::{FRAC_2_PI, LN_2};

/// Compiles the functions inside for several instruction sets and picks the best at run time. The source has no fused
/// multiply-add and fixes the order of every sum, so that all versions give the same bits.
macro_rules! simd {
    ($($item:item)*) => {
        $(
            #[multiversion::multiversion(targets(
                "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma+bmi1+bmi2",
                "x86_64+avx2+fma+bmi1+bmi2",
            ))]
            $item
        )*
    };
}
pub(crate) use simd;

/// `e^x`; at most 2 units in the last place from the truth. Underflows to 0 below -87.3, gives infinity above 88.7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-104.0, 89.0);
    let (y, n) = reduced(clamped);
    // 2^n in two halves, so that neither leaves the range of exponents: n is in [-151, 129].
    let half = n >> 1;
    let scaled = y * pow2(half) * pow2(n.wrapping_sub(half));
    let scaled = if x < -103.97 { 0.0 } else { scaled };
    let scaled = if x > 88.722_84 { f32::INFINITY } else { scaled };
    if x.is_nan() { x } else { scaled }
}

/// `y` and `n` such that `e^x` is `y * 2^n`, for `x` from -104 to 89. A NaN makes nonsense of `n` and a NaN of `y`.
#[inline(always)]
fn reduced(x: f32) -> (f32, i32) {
    // Cephes' reduction: x = n ln2 + r with |r| <= ln2/2, ln2 split in two so that n * LN2_HI is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer without a libm call.
    const ROUND: f32 = 12_582_912.0;
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2_HI - n * LN2_LO;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.0e-1;
    let y = p * (r * r) + r + 1.0;
    // The integer stands in the low bits of `rounded`: a cast from float to integer saturates in Rust, and that does not
    // vectorise.
    (y, (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32))
}

/// [`exp`] where its result is a normal number or nothing: for `x` up to 88, and 0 below -87, in three quarters of its time. The same
/// bits as `exp` between. A NaN stays one.
#[inline(always)]
pub fn exp_near(x: f32) -> f32 {
    let clamped = if x < -87.0 { -87.0 } else { x };
    let (y, n) = reduced(clamped);
    let scaled = y * pow2(n);
    if x < -87.0 { 0.0 } else { scaled }
}

/// `2^n` for -126 <= n <= 127, by writing the exponent field; anything for other `n`.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// The logistic function `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh(x)`; absolute error below 2e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// The scaled complementary error function `e^(x^2) erfc(x)` for `x >= 0`; relative error below 4e-7.
///
/// A polynomial in `t = 1 / (1 + x/2)`, the form of Abramowitz and Stegun 7.1.26, with coefficients fitted by us
/// (smallest largest relative error on 0 <= x <= 10.3, where `e^(-x^2)` has gone under the range of `f32`).
#[inline(always)]
pub fn erfcx(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * x);
    let mut p = -5.914_936e-2_f32;
    p = p * t + 2.849_680_2e-1;
    p = p * t + -4.880_155_3e-1;
    p = p * t + 2.790_024_6e-1;
    p = p * t + -2.727_161_2e-2;
    p = p * t + 2.029_609_2e-1;
    p = p * t + 2.430_343e-1;
    p = p * t + 2.823_848_7e-1;
    p = p * t + 2.820_858_7e-1;
    p * t
}

/// The error function; absolute error below 2e-7, and relative error below 4e-7. A polynomial in x^2 near zero, where
/// `1 - erfc` would cancel, and [`erfcx`] beyond.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let z = x * x;
    let mut p = -6.749_512_4e-4_f32;
    p = p * z + 5.114_345_3e-3;
    p = p * z + -2.683_462_6e-2;
    p = p * z + 1.128_337_7e-1;
    p = p * z + -3.761_262e-1;
    p = p * z + std::f32::consts::FRAC_2_SQRT_PI;
    let far = (1.0 - exp(-z) * erfcx(x.abs())).copysign(x);
    if x.abs() < 0.75 { p * x } else { far }
}

/// The natural logarithm, to about 1 unit in the last place of `f64`. Zero gives -infinity, negative numbers NaN.
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x.is_infinite() {
        return x;
    }
    // Subnormals are brought into the normal range first.
    let (x, shift) = if x < f64::MIN_POSITIVE { (x * 18_014_398_509_481_984.0, -54) } else { (x, 0) };
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) as i64 & 0x7ff) - 1023 + shift;
    let mut m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    // ln m = 2 atanh(s) with s = (m-1)/(m+1), |s| <= 0.172: eleven terms reach the last bit.
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut series = 0.0;
    for k in (0..=11).rev() {
        series = series * z + 1.0 / f64::from(2 * k + 1);
    }
    exponent as f64 * LN_2 + 2.0 * s * series
}

/// `e^x` in `f64`, to a few units in the last place.
pub fn exp64(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > 709.78 {
        return f64::INFINITY;
    }
    if x < -745.2 {
        return 0.0;
    }
    let n = (x / LN_2).round();
    const LN2_HI: f64 = 6.931_471_803_691_238e-1;
    const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let mut sum = 1.0;
    for k in (1..=14).rev() {
        sum = 1.0 + sum * r / f64::from(k);
    }
    let n = n as i64;
    let half = n >> 1;
    let pow = |e: i64| f64::from_bits(((e + 1023) as u64) << 52);
    sum * pow(half) * pow(n - half)
}

/// `e^x` for `x <= 0` in `f64`, to 2 units in the last place; 0 below -708. Branch-free: loops over it vectorise, which
/// [`exp64`] does not.
#[inline(always)]
pub fn exp_down(x: f64) -> f64 {
    const LN2_HI: f64 = 6.931_471_803_691_238e-1;
    const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
    // As in `exp`: adding 1.5 * 2^52 rounds, and leaves the integer in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // A NaN stays one.
    let clamped = if x < -708.0 { -708.0 } else { x };
    let rounded = clamped * std::f64::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (clamped - n * LN2_HI) - n * LN2_LO;
    // 1/k! from 13 down to 2.
    let mut p = 1.605_904_383_682_161_3e-10;
    p = p * r + 2.087_675_698_786_81e-9;
    p = p * r + 2.505_210_838_544_172e-8;
    p = p * r + 2.755_731_922_398_589_3e-7;
    p = p * r + 2.755_731_922_398_589e-6;
    p = p * r + 2.480_158_730_158_73e-5;
    p = p * r + 1.984_126_984_126_984e-4;
    p = p * r + 1.388_888_888_888_889e-3;
    p = p * r + 8.333_333_333_333_333e-3;
    p = p * r + 4.166_666_666_666_666_4e-2;
    p = p * r + 1.666_666_666_666_666_6e-1;
    p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    let n = (rounded.to_bits() as i64).wrapping_sub(ROUND.to_bits() as i64);
    let scaled = y * f64::from_bits((n.wrapping_add(1023) as u64) << 52);
    if x < -708.0 { 0.0 } else { scaled }
}

/// `x^y` for positive `x`, as `e^(y ln x)`; relative error about 1e-15 times the size of `y ln x`.
pub fn powf(x: f64, y: f64) -> f64 {
    exp64(y * ln(x))
}

/// `x^n` by repeated squaring.
pub fn powi(x: f64, mut n: u64) -> f64 {
    let (mut base, mut result) = (x, 1.0);
    while n > 0 {
        if n & 1 == 1 {
            result *= base;
        }
        base *= base;
        n >>= 1;
    }
    result
}

/// Sine of `x` in radians; absolute error below 1e-15 for |x| up to 1e5 (the largest angle is a position).
pub fn sin(x: f64) -> f64 {
    sin_cos(x).0
}

/// Cosine of `x` in radians; see [`sin`].
pub fn cos(x: f64) -> f64 {
    sin_cos(x).1
}

/// Sine and cosine of `x` in radians.
pub fn sin_cos(x: f64) -> (f64, f64) {
    if !x.is_finite() {
        return (f64::NAN, f64::NAN);
    }
    // Cody and Waite: pi/2 in three parts, each product with n exact for n < 2^20.
    const PIO2_1: f64 = 1.570_796_326_734_125_6;
    const PIO2_2: f64 = 6.077_100_506_303_966e-11;
    const PIO2_3: f64 = 2.022_266_248_795_950_6e-21;
    let n = (x * FRAC_2_PI).round();
    let r = ((x - n * PIO2_1) - n * PIO2_2) - n * PIO2_3;
    let z = r * r;
    let (mut s, mut c) = (0.0, 0.0);
    for k in (0..=9).rev() {
        let k = f64::from(2 * k);
        s = 1.0 - s * z / ((k + 2.0) * (k + 3.0));
        c = 1.0 - c * z / ((k + 1.0) * (k + 2.0));
    }
    let s = r * s;
    match (n as i64).rem_euclid(4) {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

#[cfg(test)]
mod tests {
    //! The truth is the C library in f64, which is far more precise than what is tested.
    use super::*;

    /// Numbers from `lo` to `hi`; few of them where they are interpreted.
    fn grid(lo: f64, hi: f64, n: usize) -> impl Iterator<Item = f64> {
        let n = if cfg!(miri) { n.min(50) } else { n };
        (0..=n).map(move |i| lo + (hi - lo) * i as f64 / n as f64)
    }

    #[test]
    fn near_zero_both_exponentials_are_one() {
        for i in (-87_000..=88_000).step_by(if cfg!(miri) { 2_501 } else { 1 }) {
            let x = i as f32 / 1000.0;
            assert_eq!(exp_near(x).to_bits(), exp(x).to_bits(), "{x}");
        }
        assert_eq!([exp_near(-87.1), exp_near(-1e9), exp_near(f32::NEG_INFINITY)], [0.0; 3]);
        assert!(exp_near(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_within_two_ulps() {
        for x in grid(-87.0, 88.7, 200_000) {
            let x = x as f32;
            let truth = f64::from(x).exp();
            let error = (f64::from(exp(x)) - truth).abs() / truth;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) = {} vs {truth}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        // Subnormal results are graceful, not zero.
        assert!(exp(-95.0) > 0.0 && exp(-95.0) < f32::MIN_POSITIVE);
    }

    #[test]
    fn tanh_and_sigmoid() {
        for x in grid(-30.0, 30.0, 60_000) {
            let x = x as f32;
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 2e-7, "tanh({x})");
            let truth = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(sigmoid(x)) - truth).abs() < 2e-7, "sigmoid({x})");
        }
    }

    #[test]
    fn erf_against_the_series() {
        // erf x = 2/sqrt(pi) * sum (-1)^n x^(2n+1) / (n! (2n+1)), which converges for every x; f64 suffices to |x| = 4.
        for x in grid(-4.0, 4.0, 4_000) {
            let x = f64::from(x as f32);
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            let truth = sum * 2.0 / std::f64::consts::PI.sqrt();
            let error = (f64::from(erf(x as f32)) - truth).abs();
            assert!(error < 2e-7 && error <= 4e-7 * truth.abs(), "erf({x}) = {} vs {truth}", erf(x as f32));
        }
        assert!(erf(10.0) == 1.0 && erf(-10.0) == -1.0 && erf(0.0) == 0.0 && erf(f32::NAN).is_nan());
    }

    #[test]
    fn erfcx_against_the_continued_fraction() {
        // Laplace: sqrt(pi) erfcx x = 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + ...)))), which converges for x > 0 (DLMF 7.9.1).
        for x in grid(0.5, 12.0, 4_000) {
            let x = f64::from(x as f32);
            let tail = (1..2000).rev().fold(x, |tail, k| x + f64::from(k) / 2.0 / tail);
            let truth = 1.0 / (std::f64::consts::PI.sqrt() * tail);
            assert!((f64::from(erfcx(x as f32)) - truth).abs() <= 4e-7 * truth, "erfcx({x}) vs {truth}");
        }
        // Below, by erfc = 1 - erf with the series of erf.
        for x in grid(0.0, 0.5, 1_000) {
            let x = f64::from(x as f32);
            let (mut term, mut sum) = (x, x);
            for n in 1..40 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            let truth = (x * x).exp() * (1.0 - sum * 2.0 / std::f64::consts::PI.sqrt());
            assert!((f64::from(erfcx(x as f32)) - truth).abs() <= 4e-7 * truth, "erfcx({x}) vs {truth}");
        }
        assert!(erfcx(f32::NAN).is_nan());
    }

    #[test]
    fn ln_exp64_pow() {
        for x in grid(-700.0, 700.0, 50_000) {
            let truth = x.exp();
            assert!((exp64(x) - truth).abs() <= 1e-14 * truth, "exp64({x})");
            assert!((ln(truth) - x).abs() <= 1e-13 * x.abs().max(1.0), "ln({truth})");
        }
        for x in grid(0.001, 3.0, 10_000) {
            assert!((ln(x) - x.ln()).abs() < 1e-15 * x.ln().abs().max(1.0), "ln({x})");
        }
        assert!((powf(10_000.0, -0.25) - 0.1).abs() < 1e-15);
        assert!((powi(0.95, 1000) - 0.95_f64.powi(1000)).abs() < 1e-35);
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
        assert!(ln(-1.0).is_nan());
        assert!((ln(5e-324) - 5e-324_f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn exp_down_is_within_two_ulps() {
        for x in grid(-708.0, 0.0, 200_000).chain(grid(-1.0, 0.0, 50_000)) {
            let truth = x.exp();
            assert!((exp_down(x) - truth).abs() <= 2.0 * f64::EPSILON * truth, "exp_down({x}) = {:e}", exp_down(x));
        }
        assert_eq!((exp_down(0.0), exp_down(-800.0), exp_down(f64::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp_down(f64::NAN).is_nan());
    }

    #[test]
    fn sin_and_cos() {
        for x in grid(-100_000.0, 100_000.0, 100_003) {
            let (s, c) = sin_cos(x);
            assert!((s - x.sin()).abs() < 1e-14 && (c - x.cos()).abs() < 1e-14, "sin_cos({x}) = {s}, {c}");
        }
    }
}
