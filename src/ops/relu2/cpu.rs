//! The squared ReLU on the CPU.

use rayon::prelude::*;

use crate::ops::element::Element;
use crate::ops::simd;

/// Elements of one task.
const CHUNK: usize = 1 << 14;

/// `y = max(x, 0)^2`.
pub fn forward<E: Element>(y: &mut [E], x: &[E]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| square(y, x));
}

/// Turns the gradient of `y`, in `d`, into that of `x`: `d *= 2 max(x, 0)`.
pub fn backward<E: Element>(d: &mut [E], x: &[E]) {
    d.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(d, x)| slope(d, x));
}

/// `max(x, 0)`, except that a NaN stays one (`f32::max` would hide it).
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

simd! {
    /// One slice.
    pub fn square<E: Element>(y: &mut [E], x: &[E]) {
        for (y, x) in y.iter_mut().zip(x) {
            let r = relu(x.load());
            *y = E::store(r * r);
        }
    }

    fn slope<E: Element>(d: &mut [E], x: &[E]) {
        for (d, x) in d.iter_mut().zip(x) {
            *d = E::store(d.load() * (2.0 * relu(x.load())));
        }
    }
}
