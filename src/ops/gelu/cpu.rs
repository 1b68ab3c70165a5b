//! GELU on the CPU.
//!
//! Both forms are written so that nothing cancels in the left tail, where `1 + tanh` and `1 + erf` lose every digit: the
//! tanh form as `x sigmoid(2u)`, since `(1 + tanh u) / 2 = sigmoid(2u)`; the exact one by `erfc`, whose exponential is
//! also the density that the derivative needs.

use std::f32::consts::FRAC_1_SQRT_2;

use rayon::prelude::*;

use super::Kind;
use crate::math;
use crate::ops::element::Element;
use crate::ops::simd;

/// Elements of one task.
const CHUNK: usize = 1 << 14;

/// `2 sqrt(2/pi)`.
const SLOPE: f32 = 1.595_769;
/// The weight of the cube, from the paper.
const CUBE: f32 = 0.044_715;
/// `1 / sqrt(2 pi)`.
const DENSITY: f32 = 0.398_942_3;

/// `y = gelu(x)`.
pub fn forward<E: Element>(y: &mut [E], x: &[E], kind: Kind) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| match kind {
        Kind::Tanh => forward_tanh(y, x),
        Kind::Erf => forward_erf(y, x),
    });
}

/// Turns the gradient of `y`, in `d`, into that of `x`: `d *= gelu'(x)`.
pub fn backward<E: Element>(d: &mut [E], x: &[E], kind: Kind) {
    d.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(d, x)| match kind {
        Kind::Tanh => backward_tanh(d, x),
        Kind::Erf => backward_erf(d, x),
    });
}

/// `e^(-2u)`, held below 1e35 so that its product with the sigmoid stays a number.
#[inline(always)]
fn decay(x: f32) -> f32 {
    let v = SLOPE * (x + CUBE * (x * x * x));
    math::exp_near(if v < -80.0 { 80.0 } else { -v })
}

/// `Phi(x)` and `e^(-x^2/2)`.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * FRAC_1_SQRT_2;
    let e = math::exp(-0.5 * (x * x));
    let tail = 0.5 * e * math::erfcx(z);
    (if x < 0.0 { tail } else { 1.0 - tail }, e)
}

simd! {
    /// The tanh form of one slice.
    pub fn forward_tanh<E: Element>(y: &mut [E], x: &[E]) {
        for (y, x) in y.iter_mut().zip(x) {
            let x = x.load();
            *y = E::store(x / (1.0 + decay(x)));
        }
    }

    /// The exact form of one slice.
    pub fn forward_erf<E: Element>(y: &mut [E], x: &[E]) {
        for (y, x) in y.iter_mut().zip(x) {
            let x = x.load();
            *y = E::store(x * normal(x).0);
        }
    }

    fn backward_tanh<E: Element>(d: &mut [E], x: &[E]) {
        for (d, x) in d.iter_mut().zip(x) {
            let x = x.load();
            let e = decay(x);
            let s = 1.0 / (1.0 + e);
            // 1 - s is e s, exactly where s is close to one.
            *d = E::store(d.load() * (s + x * s * (e * s) * (SLOPE * (1.0 + 3.0 * CUBE * (x * x)))));
        }
    }

    fn backward_erf<E: Element>(d: &mut [E], x: &[E]) {
        for (d, x) in d.iter_mut().zip(x) {
            let x = x.load();
            let (p, e) = normal(x);
            *d = E::store(d.load() * (p + x * (DENSITY * e)));
        }
    }
}
