//! The numbers that operators on the CPU read and write: `f32`, or bfloat16, the upper half of one.
//!
//! An operator loads its operands as `f32`, computes in `f32`, and rounds once where it stores. Loading and storing are
//! integer arithmetic without branches, so that loops over either type vectorise on every instruction set.

use half::bf16;
use rayon::prelude::*;

use crate::device::DType;
use crate::math::simd;

/// An element of an activation or a weight: `f32` or [`bf16`].
pub trait Element: bytemuck::Pod + Send + Sync {
    /// The dtype of tensors of such elements.
    const DTYPE: DType;

    /// Its value, exactly.
    fn load(self) -> f32;

    /// The nearest element, to even where two are equally near. A NaN stays one.
    fn store(x: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    fn load(self) -> f32 {
        self
    }

    #[inline(always)]
    fn store(x: f32) -> Self {
        x
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;

    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn store(x: f32) -> Self {
        let bits = x.to_bits();
        // Half of the last place that stays, less one where that place is even: a carry rounds up. Infinity is the
        // number after the largest finite one, so overflow needs no case of its own.
        let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        // Of a NaN the quiet bit is set: its other bits may lie in the half that is cut off.
        let kept = if x.is_nan() { bits | 0x0040_0000 } else { nearest };
        bf16::from_bits((kept >> 16) as u16)
    }
}

/// The elements themselves, where they are `f32`.
#[inline(always)]
pub fn as_f32<E: Element>(x: &[E]) -> Option<&[f32]> {
    (E::DTYPE == DType::F32).then(|| bytemuck::cast_slice(x))
}

/// [`as_f32`], to be changed.
#[inline(always)]
pub fn as_f32_mut<E: Element>(x: &mut [E]) -> Option<&mut [f32]> {
    (E::DTYPE == DType::F32).then(|| bytemuck::cast_slice_mut(x))
}

/// Elements of one task.
const CHUNK: usize = 1 << 14;

/// `to = from`, rounded where `to` is the narrower; slices of one length.
pub fn convert<A: Element, B: Element>(to: &mut [B], from: &[A]) {
    assert_eq!(to.len(), from.len(), "elements to convert");
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| convert_slice(to, from));
}

/// `sum += term`, rounded once; slices of one length.
pub fn add_assign<E: Element>(sum: &mut [E], term: &[E]) {
    assert_eq!(sum.len(), term.len(), "elements of a sum");
    sum.par_chunks_mut(CHUNK).zip(term.par_chunks(CHUNK)).for_each(|(sum, term)| add_slice(sum, term));
}

simd! {
    /// [`convert`] of one slice by the calling thread.
    pub fn convert_slice<A: Element, B: Element>(to: &mut [B], from: &[A]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = B::store(from.load());
        }
    }

    /// [`add_assign`] of one slice by the calling thread; the term may be of another type.
    pub fn add_slice<A: Element, B: Element>(sum: &mut [A], term: &[B]) {
        for (sum, term) in sum.iter_mut().zip(term) {
            *sum = A::store(sum.load() + term.load());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pattern of the upper half, with lower halves around the points where rounding turns.
    #[test]
    fn storing_rounds_to_nearest_even() {
        for upper in (0..=u16::MAX).step_by(if cfg!(miri) { 257 } else { 1 }) {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(upper) << 16 | lower);
                let (ours, expected) = (bf16::store(x), bf16::from_f32(x));
                assert_eq!(ours.is_nan(), x.is_nan(), "{x:e}");
                assert!(x.is_nan() || ours.to_bits() == expected.to_bits(), "{x:e}: {ours:e}, not {expected:e}");
            }
            let narrow = bf16::from_bits(upper);
            assert_eq!(narrow.load().to_bits(), u32::from(upper) << 16);
            assert!(narrow.is_nan() || bf16::store(narrow.load()).to_bits() == upper);
        }
    }
}
