//! AdamW on the CPU.

use rayon::prelude::*;

use super::Factors;
use crate::ops::element::Element;
use crate::ops::simd;
use crate::tensor::element::convert_slice;

/// Elements of one task.
const CHUNK: usize = 1 << 14;

/// Updates one parameter; `keep` is what its old value is multiplied with (decay).
pub(crate) fn update(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], keep: f32, factors: Factors) {
    p.par_chunks_mut(CHUNK)
        .zip(m.par_chunks_mut(CHUNK))
        .zip(v.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)))
        .for_each(|((p, m), (v, g))| chunk(p, m, v, g, keep, factors));
}

/// [`update`], which also rounds the new values to `copy`.
pub(crate) fn update_with_copy<E: Element>(
    p: &mut [f32],
    copy: &mut [E],
    m: &mut [f32],
    v: &mut [f32],
    g: &[f32],
    keep: f32,
    factors: Factors,
) {
    p.par_chunks_mut(CHUNK)
        .zip(copy.par_chunks_mut(CHUNK))
        .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)).zip(g.par_chunks(CHUNK)))
        .for_each(|((p, copy), ((m, v), g))| {
            chunk(p, m, v, g, keep, factors);
            convert_slice(copy, p);
        });
}

simd! {
    fn chunk(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], keep: f32, f: Factors) {
        for (((p, m), v), g) in p.iter_mut().zip(m.iter_mut()).zip(v.iter_mut()).zip(g) {
            let g = g * f.grad_scale;
            *m = f.beta1 * *m + f.one_minus_beta1 * g;
            *v = f.beta2 * *v + f.one_minus_beta2 * (g * g);
            let denominator = v.sqrt() / f.sqrt_correction2 + f.eps;
            *p = *p * keep - f.step_size * (*m / denominator);
        }
    }
}
