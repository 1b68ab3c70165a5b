//! Sixteen floats at once: one register of AVX-512, two of AVX2, an array elsewhere (which compilers turn into NEON or SSE).
//!
//! The kernels are written once, over [`Vector`] and [`Integers`], and compiled inside functions that carry the target
//! features. Every function here is inlined into those; on its own it would be a slow call.

#![allow(
    clippy::missing_safety_doc,
    reason = "one promise for all: the machine has the features, the pointers their elements"
)]

use half::{bf16, f16};

/// Lanes of a vector, and columns of a panel of packed weights.
pub const LANES: usize = 16;

/// Sixteen f32. All functions are unsafe: the machine must have the instructions, and pointers must have sixteen elements.
pub trait Vector: Copy {
    /// Whether 32 registers of sixteen floats are there: tiles may then be larger.
    const WIDE: bool;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn load_bf16(from: *const bf16) -> Self;
    unsafe fn load_f16(from: *const f16) -> Self;
    unsafe fn load_i8(from: *const i8) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + x * w`, rounded once where the machine can (AVX2 and later, NEON), else twice.
    unsafe fn fused(self, x: Self, w: Self) -> Self;
    unsafe fn times(self, other: Self) -> Self;
    unsafe fn plus(self, other: Self) -> Self;
}

/// Sixteen sums of products of four 8-bit numbers each.
pub trait Integers {
    /// The floats they become.
    type Floats: Vector;
    /// Sixteen i32.
    type Sums: Copy;
    /// 64 weights: four for each of sixteen columns, ready for the products.
    type Weights: Copy;
    /// What the 8-bit weights of `Weights` have had added; the products are too large by so many times the sum of x.
    const OFFSET: i32;
    unsafe fn splat(value: i32) -> Self::Sums;
    /// 64 signed 8-bit weights, of -127 to 127.
    unsafe fn load(from: *const i8) -> Self::Weights;
    /// 128 unsigned 4-bit weights: the low nibbles, the high nibbles.
    unsafe fn load_nibbles(from: *const u8) -> (Self::Weights, Self::Weights);
    /// Adds the products with four signed numbers, of -127 to 127.
    unsafe fn dot(sums: Self::Sums, weights: Self::Weights, x: *const i8) -> Self::Sums;
    /// The same for weights of [`Integers::load_nibbles`].
    unsafe fn dot_nibbles(sums: Self::Sums, weights: Self::Weights, x: *const i8) -> Self::Sums;
    unsafe fn floats(sums: Self::Sums) -> Self::Floats;
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn by(f: impl Fn(usize) -> f32) -> Portable {
        Portable(std::array::from_fn(f))
    }
}

impl Vector for Portable {
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen elements, by the trait's promise.
        Portable(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: sixteen elements, by the trait's promise.
        let from = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Portable::by(|i| f32::from_bits(u32::from(from[i]) << 16))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: sixteen elements, by the trait's promise.
        let from = unsafe { from.cast::<[f16; LANES]>().read_unaligned() };
        Portable::by(|i| from[i].to_f32())
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: sixteen elements, by the trait's promise.
        let from = unsafe { from.cast::<[i8; LANES]>().read_unaligned() };
        Portable::by(|i| f32::from(from[i]))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: sixteen elements, by the trait's promise.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn fused(self, x: Self, w: Self) -> Self {
        if cfg!(target_arch = "aarch64") {
            Portable::by(|i| x.0[i].mul_add(w.0[i], self.0[i]))
        } else {
            Portable::by(|i| self.0[i] + x.0[i] * w.0[i])
        }
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        Portable::by(|i| self.0[i] * other.0[i])
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        Portable::by(|i| self.0[i] + other.0[i])
    }
}

impl Integers for Portable {
    type Floats = Portable;
    type Sums = [i32; LANES];
    type Weights = [[i8; 4]; LANES];
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn splat(value: i32) -> Self::Sums {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> Self::Weights {
        // SAFETY: 64 elements, by the trait's promise.
        unsafe { from.cast::<Self::Weights>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> (Self::Weights, Self::Weights) {
        // SAFETY: 64 elements, by the trait's promise.
        let both = unsafe { from.cast::<[[u8; 4]; LANES]>().read_unaligned() };
        (both.map(|four| four.map(|byte| (byte & 15) as i8)), both.map(|four| four.map(|byte| (byte >> 4) as i8)))
    }

    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, weights: Self::Weights, x: *const i8) -> Self::Sums {
        // SAFETY: four elements, by the trait's promise.
        let x = unsafe { x.cast::<[i8; 4]>().read_unaligned() };
        let product = |w: [i8; 4]| (0..4).map(|i| i32::from(w[i]) * i32::from(x[i])).sum::<i32>();
        std::array::from_fn(|i| sums[i] + product(weights[i]))
    }

    #[inline(always)]
    unsafe fn dot_nibbles(sums: Self::Sums, weights: Self::Weights, x: *const i8) -> Self::Sums {
        // SAFETY: the same promise.
        unsafe { <Self as Integers>::dot(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn floats(sums: Self::Sums) -> Portable {
        Portable::by(|i| sums[i] as f32)
    }
}
