//! Sums in a fixed order that still vectorise: sixteen virtual lanes, joined in a fixed tree.
//!
//! A lane is an accumulator; element `i` goes to lane `i % 16`. That is one AVX-512 register, two of AVX2, four of SSE,
//! and the same result on each. Everything is `inline(always)` so that it is compiled for the caller's instruction set.

use super::element::Element;
use super::simd;

pub use crate::tensor::element::add_slice as add;

/// Number of lanes.
pub const LANES: usize = 16;

/// Joins lanes in a fixed binary tree.
#[inline(always)]
pub fn join(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `f(x)` over a slice.
#[inline(always)]
pub fn sum<E: Element>(x: &[E], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x.load());
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += f(x.load());
    }
    join(lanes)
}

/// The sum of `f(x, y)` over two slices of one length.
#[inline(always)]
pub fn sum2<X: Element, Y: Element>(x: &[X], y: &[Y], f: impl Fn(f32, f32) -> f32) -> f32 {
    debug_assert_eq!(x.len(), y.len());
    let mut lanes = [0.0f32; LANES];
    let (mut xs, mut ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    for (x, y) in (&mut xs).zip(&mut ys) {
        for i in 0..LANES {
            lanes[i] += f(x[i].load(), y[i].load());
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(xs.remainder().iter().zip(ys.remainder())) {
        *lane += f(x.load(), y.load());
    }
    join(lanes)
}

/// The sum of `f(x, y, z)` over three slices of one length.
#[inline(always)]
pub fn sum3<X: Element, Y: Element, Z: Element>(x: &[X], y: &[Y], z: &[Z], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    debug_assert!(x.len() == y.len() && x.len() == z.len());
    let mut lanes = [0.0f32; LANES];
    let (mut xs, mut ys, mut zs) = (x.chunks_exact(LANES), y.chunks_exact(LANES), z.chunks_exact(LANES));
    for ((x, y), z) in (&mut xs).zip(&mut ys).zip(&mut zs) {
        for i in 0..LANES {
            lanes[i] += f(x[i].load(), y[i].load(), z[i].load());
        }
    }
    let rest = xs.remainder().iter().zip(ys.remainder()).zip(zs.remainder());
    for (lane, ((&x, &y), &z)) in lanes.iter_mut().zip(rest) {
        *lane += f(x.load(), y.load(), z.load());
    }
    join(lanes)
}

/// The largest value (negative infinity for an empty slice). A NaN anywhere gives NaN.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = x.chunks_exact(LANES);
    let pick = |lane: &mut f32, x: f32| *lane = if x > *lane || x.is_nan() { x } else { *lane };
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            pick(lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        pick(lane, x);
    }
    let mut best = f32::NEG_INFINITY;
    for lane in lanes {
        pick(&mut best, lane);
    }
    best
}

simd! {
    /// The sum of a long slice, four vectors of lanes side by side: as fast as memory gives it.
    pub fn total(x: &[f32]) -> f32 {
        // Arrays of a fixed length: with slices the sums sometimes live on the stack, at half the speed.
        let (chunks, rest) = x.as_chunks::<{ 4 * LANES }>();
        let mut sums = [0.0f32; 4 * LANES];
        for chunk in chunks {
            for lane in 0..4 * LANES {
                sums[lane] += chunk[lane];
            }
        }
        sums.as_chunks::<LANES>().0.iter().map(|lanes| join(*lanes)).sum::<f32>() + sum(rest, |x| x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_f64() {
        for n in [0usize, 1, 15, 16, 17, 100, 1000] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
            let truth: f64 = x.iter().map(|&v| f64::from(v)).sum();
            let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            assert!((f64::from(sum(&x, |v| v)) - truth).abs() < 1e-4);
            assert!((f64::from(sum2(&x, &x, |a, b| a * b)) - squares).abs() <= 1e-6 * squares);
            let cubes: f64 = x.iter().map(|&v| f64::from(v).powi(3).abs()).sum();
            let truth: f64 = x.iter().map(|&v| f64::from(v).powi(3)).sum();
            assert!((f64::from(sum3(&x, &x, &x, |a, b, c| a * b * c)) - truth).abs() <= 1e-6 * cubes);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
        assert!(max(&[1.0, f32::NAN, 3.0]).is_nan());
    }
}
