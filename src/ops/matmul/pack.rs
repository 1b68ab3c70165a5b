//! Packing of matrices into tiles of bf16, as the units that multiply them read them.
//!
//! A panel is 32 lines of an operand (rows of A, columns of B) over a stretch of the common axis k. It is cut into
//! steps of 32 k. A step holds for each part (see [`Packed::PARTS`]) two tiles of 16 lines, and a tile has 16 rows of
//! 64 bytes: of A, a row is a line with its 32 k; of B, a row is a pair of neighbouring k of 16 lines. Lines and k
//! beyond the end are zeros.
//!
//! An f32 becomes three bf16 whose sum it is: the value rounded to bf16, what that leaves rounded again, and the rest. Each
//! holds 8 bits of the significand's 24 (Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial intelligence datatype
//! for higher-precision computations", 2019).

use std::arch::x86_64::*;

use half::bf16;

/// Lines of a panel.
pub const LINES: usize = 32;
/// Values of k in a step.
pub const STEP: usize = 32;
/// Elements of a tile: 16 lines of 32 k.
pub const TILE: usize = 512;

/// Which operand a panel is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The left one, whose lines are rows of the result.
    Rows,
    /// The right one, whose lines are columns of the result.
    Columns,
}

/// A matrix of lines by k in memory; one of the two strides is 1.
#[derive(Debug)]
pub struct Lines<E> {
    /// The first element.
    pub data: *const E,
    /// Elements from a line to the next.
    pub line: usize,
    /// Elements from a k to the next.
    pub k: usize,
}

impl<E> Clone for Lines<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Lines<E> {}

// SAFETY: the memory is only read, by `pack`, whose caller promises that it is a matrix that stays as it is.
unsafe impl<E: Sync> Sync for Lines<E> {}
// SAFETY: it is a shared view: sending it to another thread only lets that thread read elements that are Sync.
unsafe impl<E: Sync> Send for Lines<E> {}

impl<E> Lines<E> {
    /// The matrix from a line and a k on.
    ///
    /// # Safety
    /// They must be inside.
    pub unsafe fn at(&self, line: usize, k: usize) -> Lines<E> {
        // SAFETY: the place of line `line` and k `k` is inside the matrix by the caller.
        Lines { data: unsafe { self.data.add(line * self.line + k * self.k) }, ..*self }
    }
}

/// Elements (of 16 bits) of a panel over `k` values of k.
pub fn panel_len(k: usize, parts: usize) -> usize {
    k.div_ceil(STEP) * parts * 2 * TILE
}

/// What can be packed.
pub trait Packed: Copy + Send + Sync {
    /// How many bf16 a value becomes.
    const PARTS: usize;

    /// The first `n` (at most 32) of consecutive k of one line, for each part.
    ///
    /// # Safety
    /// They must be readable, and the CPU have AVX512-BF16.
    unsafe fn along(from: *const Self, n: usize) -> [__m512i; 3];

    /// Two neighbouring k of the first `n` (at most 16) lines, side by side in 32 bits; a null pointer stands for zeros.
    ///
    /// # Safety
    /// As [`Packed::along`].
    unsafe fn across(even: *const Self, odd: *const Self, n: usize) -> [__m512i; 3];
}

#[inline(always)]
fn first(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// 16 values rounded to bf16 and then 16 others.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: two types of a vector of 64 bytes.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// A value rounded to the nearest bf16, as an f32, and exactly what that leaves. Integer arithmetic on the bits, ties
/// away from zero: faster than the instruction for it, which would have to be undone.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
fn head_and_rest(x: __m512) -> (__m512, __m512) {
    let up = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    let head = _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
    (head, _mm512_sub_ps(x, head))
}

/// The three parts of a value, as f32. The last keeps a NaN even where rounding made something else of the first.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
fn split(x: __m512) -> [__m512; 3] {
    let (first, rest) = head_and_rest(x);
    let (second, rest) = head_and_rest(rest);
    [first, second, rest]
}

/// The parts of 32 values in order.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
fn split_along(low: __m512, high: __m512) -> [__m512i; 3] {
    let (low, high) = (split(low), split(high));
    [rounded(low[0], high[0]), rounded(low[1], high[1]), rounded(low[2], high[2])]
}

/// The parts of two vectors of 16 values, pair by pair.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
fn split_across(even: __m512, odd: __m512) -> [__m512i; 3] {
    let pairs = |even: __m512, odd: __m512| {
        let even = _mm512_srli_epi32::<16>(_mm512_castps_si512(even));
        _mm512_mask_blend_epi16(0xaaaa_aaaa, even, _mm512_castps_si512(odd))
    };
    let (even, odd) = (split(even), split(odd));
    [pairs(even[0], odd[0]), pairs(even[1], odd[1]), pairs(even[2], odd[2])]
}

impl Packed for f32 {
    const PARTS: usize = 3;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn along(from: *const f32, n: usize) -> [__m512i; 3] {
        // SAFETY: the masks keep to the n elements that the caller vouches for.
        unsafe {
            let low = _mm512_maskz_loadu_ps(first(n), from);
            let high = _mm512_maskz_loadu_ps(first(n.saturating_sub(16)), from.wrapping_add(16));
            split_along(low, high)
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn across(even: *const f32, odd: *const f32, n: usize) -> [__m512i; 3] {
        // SAFETY: the mask keeps to the n elements that the caller vouches for; nothing is read where it is empty.
        let load = |from: *const f32| unsafe { _mm512_maskz_loadu_ps(if from.is_null() { 0 } else { first(n) }, from) };
        split_across(load(even), load(odd))
    }
}

impl Packed for bf16 {
    const PARTS: usize = 1;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn along(from: *const bf16, n: usize) -> [__m512i; 3] {
        let mask = if n >= 32 { u32::MAX } else { (1 << n) - 1 };
        // SAFETY: the mask keeps to the n elements that the caller vouches for.
        [unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) }; 3]
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn across(even: *const bf16, odd: *const bf16, n: usize) -> [__m512i; 3] {
        let load = |from: *const bf16| {
            let mask = if from.is_null() { 0 } else { first(n) };
            // SAFETY: the mask keeps to the n elements that the caller vouches for; nothing is read where it is empty.
            _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) })
        };
        [_mm512_or_si512(load(even), _mm512_slli_epi32::<16>(load(odd))); 3]
    }
}

/// Transposes 16 rows of 16 values of 32 bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
fn transpose(rows: &mut [__m512i; 16]) {
    let mut other = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        other[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        other[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for i in 0..4 {
        rows[4 * i] = _mm512_unpacklo_epi64(other[4 * i], other[4 * i + 2]);
        rows[4 * i + 1] = _mm512_unpackhi_epi64(other[4 * i], other[4 * i + 2]);
        rows[4 * i + 2] = _mm512_unpacklo_epi64(other[4 * i + 1], other[4 * i + 3]);
        rows[4 * i + 3] = _mm512_unpackhi_epi64(other[4 * i + 1], other[4 * i + 3]);
    }
    // Now row 4 i + j holds column j of each quarter of the rows 4 i to 4 i + 3: quarters are left to be exchanged.
    for i in 0..4 {
        other[i] = _mm512_shuffle_i32x4::<0x88>(rows[i], rows[i + 4]);
        other[i + 4] = _mm512_shuffle_i32x4::<0xdd>(rows[i], rows[i + 4]);
        other[i + 8] = _mm512_shuffle_i32x4::<0x88>(rows[i + 8], rows[i + 12]);
        other[i + 12] = _mm512_shuffle_i32x4::<0xdd>(rows[i + 8], rows[i + 12]);
    }
    for i in 0..4 {
        rows[i] = _mm512_shuffle_i32x4::<0x88>(other[i], other[i + 8]);
        rows[i + 8] = _mm512_shuffle_i32x4::<0xdd>(other[i], other[i + 8]);
        rows[i + 4] = _mm512_shuffle_i32x4::<0x88>(other[i + 4], other[i + 12]);
        rows[i + 12] = _mm512_shuffle_i32x4::<0xdd>(other[i + 4], other[i + 12]);
    }
}

/// Packs a panel: the first `lines` (at most 32) of a matrix over `k` values of k.
///
/// # Safety
/// `source` must hold `lines` x `k` elements, `out` be aligned to 64 bytes and hold a panel ([`panel_len`]), and the
/// CPU have AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn pack<E: Packed>(out: *mut u16, source: Lines<E>, lines: usize, k: usize, side: Side) {
    let consecutive = source.k == 1;
    for step in 0..k.div_ceil(STEP) {
        let ks = STEP.min(k - step * STEP);
        for tile in 0..2 {
            let n = lines.saturating_sub(16 * tile).min(16);
            let filled = if consecutive { n } else { ks.div_ceil(2) * usize::from(n > 0) };
            // SAFETY: a step and a tile of the panel, whose length the caller vouches for.
            let tiles = unsafe { out.add((step * E::PARTS * 2 + tile) * TILE) };
            for row in 0..filled {
                // SAFETY: lines below `lines` and k below `k` are in the source.
                let values = unsafe {
                    if consecutive {
                        E::along(source.at(16 * tile + row, step * STEP).data, ks)
                    } else {
                        let even = source.at(16 * tile, step * STEP + 2 * row).data;
                        let odd = if 2 * row + 1 < ks { even.add(source.k) } else { std::ptr::null() };
                        E::across(even, odd, n)
                    }
                };
                for (part, values) in values.into_iter().enumerate().take(E::PARTS) {
                    // SAFETY: a row of a tile.
                    unsafe { _mm512_store_si512(tiles.add(2 * part * TILE + 32 * row).cast(), values) };
                }
            }
            for part in 0..E::PARTS {
                // SAFETY: a tile of the panel.
                unsafe {
                    let tile = tiles.add(2 * part * TILE).cast::<__m512i>();
                    (filled..16).for_each(|row| _mm512_store_si512(tile.add(row), _mm512_setzero_si512()));
                    if consecutive != (side == Side::Rows) {
                        transpose(&mut *tile.cast());
                    }
                }
            }
        }
    }
}
