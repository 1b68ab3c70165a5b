//! Products of two packed panels: 32 x 32 sums in fp32 over steps of 32 k.

use std::arch::asm;
use std::arch::x86_64::*;

use super::pack::TILE;
use crate::device::bf16_unit::Bf16Unit;

/// The result of two panels, row by row.
#[repr(C, align(64))]
pub struct Block(pub [f32; 1024]);

/// How AMX's eight tile registers are laid out: 16 rows of 64 bytes each.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const fn shape() -> Shape {
    let (mut row_bytes, mut rows, mut tile) = ([0; 16], [0; 16], 0);
    while tile < 8 {
        (row_bytes[tile], rows[tile]) = (64, 16);
        tile += 1;
    }
    Shape { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
}

static SHAPE: Shape = shape();

/// A unit made ready for this thread, as long as this lives.
#[derive(Debug)]
pub struct Ready {
    unit: Bf16Unit,
    /// The registers are the thread's own.
    stays: std::marker::PhantomData<*const ()>,
}

impl Ready {
    /// Makes a unit ready.
    ///
    /// # Safety
    /// This machine must have it.
    pub unsafe fn new(unit: Bf16Unit) -> Ready {
        if unit == Bf16Unit::Amx {
            // SAFETY: the caller has AMX; a valid shape is read.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &SHAPE, options(nostack, readonly)) };
        }
        Ready { unit, stays: std::marker::PhantomData }
    }

    /// `out` = the product of two panels of `steps` steps, whose values are made of `parts` parts, 1 or 3. Of three parts,
    /// those six products are added up that reach into the 24 bits of the result.
    ///
    /// # Safety
    /// The panels must be whole and aligned to 64 bytes.
    #[inline]
    pub unsafe fn multiply(&self, out: &mut Block, (a, b): (*const u16, *const u16), steps: usize, parts: usize) {
        // SAFETY: the unit is there and ready, and the caller vouches for the panels.
        unsafe {
            match (self.unit, parts) {
                (Bf16Unit::Amx, 1) => amx_plain(out.0.as_mut_ptr(), a, b, steps),
                (Bf16Unit::Amx, _) => amx_split(out.0.as_mut_ptr(), a, b, steps),
                (Bf16Unit::Avx512, 1) => avx512_plain(out, a, b, steps),
                (Bf16Unit::Avx512, _) => unreachable!("three parts are worth it in AMX only"),
            }
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if self.unit == Bf16Unit::Amx {
            // SAFETY: made ready by `new`. Tiles in use would be saved at every switch of threads.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}

/// Four products of the loaded tiles, one for each quarter of the block: neighbours do not wait for each other.
macro_rules! four {
    () => {
        concat!(
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            "tdpbf16ps tmm3, tmm5, tmm7\n",
        )
    };
}

/// Loads the two tiles of a part of A.
macro_rules! rows {
    ($part:literal) => {
        concat!(
            "tileloadd tmm4, [{a} + {row} + 2048*",
            $part,
            "]\n",
            "tileloadd tmm5, [{a} + {row} + 2048*",
            $part,
            " + 1024]\n"
        )
    };
}

/// Loads the two tiles of a part of B.
macro_rules! columns {
    ($part:literal) => {
        concat!(
            "tileloadd tmm6, [{b} + {row} + 2048*",
            $part,
            "]\n",
            "tileloadd tmm7, [{b} + {row} + 2048*",
            $part,
            " + 1024]\n"
        )
    };
}

/// The loop over the steps, with what is done in one.
macro_rules! amx {
    ($(#[$doc:meta])* $name:ident, $step_bytes:literal, $($part:expr),*) => {
        $(#[$doc])*
        unsafe fn $name(out: *mut f32, a: *const u16, b: *const u16, steps: usize) {
            debug_assert!(steps > 0);
            // SAFETY: reads `steps` steps of both panels and writes 32 x 32 sums; the compiler uses no tile registers.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    $($part,)*
                    concat!("add {a}, ", $step_bytes),
                    concat!("add {b}, ", $step_bytes),
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{out} + {out_row}], tmm0",
                    "tilestored [{out} + {out_row} + 64], tmm1",
                    "tilestored [{out} + {out_row} + 2048], tmm2",
                    "tilestored [{out} + {out_row} + 2112], tmm3",
                    a = inout(reg) a => _,
                    b = inout(reg) b => _,
                    steps = inout(reg) steps => _,
                    row = in(reg) 64_usize,
                    out = in(reg) out,
                    out_row = in(reg) 128_usize,
                    options(nostack)
                );
            }
        }
    };
}

amx! {
    /// Six products, the small ones first; from one to the next, one side stays in its registers.
    amx_split, "6144",
    rows!("0"), columns!("2"), four!(),
    columns!("1"), four!(),
    rows!("1"), four!(),
    columns!("0"), four!(),
    rows!("2"), four!(),
    rows!("0"), four!()
}

amx! {
    /// One product.
    amx_plain, "2048",
    rows!("0"), columns!("0"), four!()
}

/// The same by AVX512-BF16: eight rows at a time, whose sums stay in sixteen registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn avx512_plain(out: &mut Block, a: *const u16, b: *const u16, steps: usize) {
    /// Rows at a time.
    const ROWS: usize = 8;
    // SAFETY: two types of a vector of 64 bytes.
    let pairs = |vector: __m512i| -> __m512bh { unsafe { std::mem::transmute(vector) } };
    for first in (0..32).step_by(ROWS) {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for step in 0..steps {
            // SAFETY: a panel has two tiles for each of `steps` steps, by the caller; this is row `first` of step `step` of `a`, and the
            // first tile of the step of `b`.
            let (a, b) = unsafe {
                (a.add((2 * step + first / 16) * TILE + first % 16 * 32).cast::<i32>(), b.add(2 * step * TILE))
            };
            for pair in 0..16 {
                // SAFETY: `pair` is below 16: 32 values each of a tile of `TILE`, and of the next tile, of step `step` of the panel.
                let (left, right) = unsafe {
                    let at = b.add(32 * pair);
                    (pairs(_mm512_load_si512(at.cast())), pairs(_mm512_load_si512(at.add(TILE).cast())))
                };
                for (row, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: `row` is below 8 and `first % 16` 0 or 8: pair `pair` of one of the 16 rows of the tile.
                    let value = pairs(_mm512_set1_epi32(unsafe { *a.add(16 * row + pair) }));
                    sums[0] = _mm512_dpbf16_ps(sums[0], value, left);
                    sums[1] = _mm512_dpbf16_ps(sums[1], value, right);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let to = &mut out.0[(first + row) * 32..][..32];
            // SAFETY: `to` has 32 floats: two vectors of 16.
            unsafe {
                _mm512_storeu_ps(to.as_mut_ptr(), sums[0]);
                _mm512_storeu_ps(to.as_mut_ptr().add(16), sums[1]);
            }
        }
    }
}
