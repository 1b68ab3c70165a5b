//! [`Vector`] and [`Integers`] by the instructions of x86-64.
//!
//! SAFETY, for every block of this file: the traits' promise is that the machine has the instructions and that pointers
//! have their elements; the loads and stores ask for no alignment.

#![allow(clippy::undocumented_unsafe_blocks, reason = "said once above")]

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::vector::{Integers, Vector};

/// AVX-512 (F, BW, VL, DQ); as [`Integers`] with VNNI.
#[derive(Clone, Copy)]
pub struct Avx512(__m512);

impl Vector for Avx512 {
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Avx512(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Avx512(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        let wide = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())) };
        Avx512(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Avx512(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn fused(self, x: Self, w: Self) -> Self {
        Avx512(unsafe { _mm512_fmadd_ps(x.0, w.0, self.0) })
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
    }
}

impl Integers for Avx512 {
    type Floats = Avx512;
    type Sums = __m512i;
    type Weights = __m512i;
    // VNNI multiplies unsigned by signed numbers: the weights become unsigned.
    const OFFSET: i32 = 128;

    #[inline(always)]
    unsafe fn splat(value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> __m512i {
        unsafe { _mm512_xor_si512(_mm512_loadu_si512(from.cast()), _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> (__m512i, __m512i) {
        unsafe {
            let (both, mask) = (_mm512_loadu_si512(from.cast()), _mm512_set1_epi8(15));
            (_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask))
        }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m512i, weights: __m512i, x: *const i8) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, weights, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn dot_nibbles(sums: __m512i, weights: __m512i, x: *const i8) -> __m512i {
        unsafe { <Self as Integers>::dot(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn floats(sums: __m512i) -> Avx512 {
        Avx512(unsafe { _mm512_cvtepi32_ps(sums) })
    }
}

/// AVX2 with FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(__m256, __m256);

impl Vector for Avx2 {
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        let all = unsafe { _mm256_set1_ps(value) };
        Avx2(all, all)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        unsafe {
            let half = |at: usize| {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(at).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            };
            Avx2(half(0), half(8))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        unsafe {
            let half = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(from.add(at).cast()));
            Avx2(half(0), half(8))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        unsafe {
            let half = |at: usize| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(at).cast())));
            Avx2(half(0), half(8))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn fused(self, x: Self, w: Self) -> Self {
        unsafe { Avx2(_mm256_fmadd_ps(x.0, w.0, self.0), _mm256_fmadd_ps(x.1, w.1, self.1)) }
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
}

impl Integers for Avx2 {
    type Floats = Avx2;
    type Sums = (__m256i, __m256i);
    type Weights = (__m256i, __m256i);
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn splat(value: i32) -> Self::Sums {
        let all = unsafe { _mm256_set1_epi32(value) };
        (all, all)
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> Self::Weights {
        unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> (Self::Weights, Self::Weights) {
        unsafe {
            let mask = _mm256_set1_epi8(15);
            let (a, b) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast()));
            let low = |v| _mm256_and_si256(v, mask);
            ((low(a), low(b)), (low(_mm256_srli_epi16::<4>(a)), low(_mm256_srli_epi16::<4>(b))))
        }
    }

    /// `maddubs` wants one unsigned factor: |w| and x with w's sign. Sums of two such products stay below 2^15.
    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, weights: Self::Weights, x: *const i8) -> Self::Sums {
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            let half = |sums, w| add_products(sums, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            (half(sums.0, weights.0), half(sums.1, weights.1))
        }
    }

    #[inline(always)]
    unsafe fn dot_nibbles(sums: Self::Sums, weights: Self::Weights, x: *const i8) -> Self::Sums {
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            (add_products(sums.0, weights.0, x), add_products(sums.1, weights.1, x))
        }
    }

    #[inline(always)]
    unsafe fn floats(sums: Self::Sums) -> Avx2 {
        unsafe { Avx2(_mm256_cvtepi32_ps(sums.0), _mm256_cvtepi32_ps(sums.1)) }
    }
}

#[inline(always)]
unsafe fn add_products(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    unsafe {
        let pairs = _mm256_maddubs_epi16(unsigned, signed);
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}
