//! SwiGLU on the CPU.

use rayon::prelude::*;

use crate::math;
use crate::ops::element::Element;
use crate::ops::simd;

/// About this many elements of the output make one task: whole rows, at least one.
const CHUNK: usize = 1 << 13;

/// `y` [N, M] from `x` [N, 2M], gate first.
pub fn forward<E: Element>(y: &mut [E], x: &[E], m: usize) {
    let rows = (CHUNK / m).max(1);
    y.par_chunks_mut(rows * m).zip(x.par_chunks(rows * 2 * m)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(m).zip(x.chunks_exact(2 * m)) {
            let (gate, up) = x.split_at(m);
            forward_row(y, gate, up);
        }
    });
}

/// `dx` [N, 2M] from `dy` [N, M] and `x` [N, 2M].
pub fn backward<E: Element>(dx: &mut [E], dy: &[E], x: &[E], m: usize) {
    let rows = (CHUNK / m).max(1);
    let tasks = dx.par_chunks_mut(rows * 2 * m).zip(dy.par_chunks(rows * m)).zip(x.par_chunks(rows * 2 * m));
    tasks.for_each(|((dx, dy), x)| {
        for ((dx, dy), x) in dx.chunks_exact_mut(2 * m).zip(dy.chunks_exact(m)).zip(x.chunks_exact(2 * m)) {
            let ((dgate, dup), (gate, up)) = (dx.split_at_mut(m), x.split_at(m));
            backward_row(dgate, dup, dy, gate, up);
        }
    });
}

/// `e^-x`, held below 1e35 so that its product with the sigmoid stays a number.
#[inline(always)]
fn decay(x: f32) -> f32 {
    math::exp_near(if x < -80.0 { 80.0 } else { -x })
}

simd! {
    /// One row.
    pub fn forward_row<E: Element>(y: &mut [E], gate: &[E], up: &[E]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            let (g, u) = (g.load(), u.load());
            *y = E::store(g / (1.0 + decay(g)) * u);
        }
    }

    fn backward_row<E: Element>(dgate: &mut [E], dup: &mut [E], dy: &[E], gate: &[E], up: &[E]) {
        for ((((dg, du), d), g), u) in dgate.iter_mut().zip(dup).zip(dy).zip(gate).zip(up) {
            let (d, g, u) = (d.load(), g.load(), u.load());
            let e = decay(g);
            let s = 1.0 / (1.0 + e);
            // 1 - s is e s, without cancellation.
            *dg = E::store(d * u * (s + g * s * (e * s)));
            *du = E::store(d * (g * s));
        }
    }
}
