//! The tiles: a few rows of activations times a few panels of weights, for every instruction set.
//!
//! A panel holds sixteen columns (outputs) of a weight matrix, input by input, so that one vector is one input's weight in
//! sixteen outputs. An output is then one lane of one register: its sum runs over the inputs in order, whatever the tile,
//! the rows next to it and the thread. Floats add one product at a time. Quantised weights add up 32 products as integers
//! (exactly), and then those sums, scaled, block after block, in two roundings: the same bits on every machine.

use half::{bf16, f16};

use super::vector::{Integers, LANES, Portable, Vector};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// Weights of one scale (ggml's blocks).
pub const BLOCK: usize = 32;

/// Which instructions to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 (F, BW, VL, DQ).
    Avx512,
    /// AVX-512 with VNNI.
    Avx512Vnni,
}

impl Isa {
    /// All that this machine has, the best last.
    pub fn available() -> Vec<Isa> {
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut all = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            all.push(Isa::Avx2);
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            if wide {
                all.push(Isa::Avx512);
            }
            if wide && is_x86_feature_detected!("avx512vnni") {
                all.push(Isa::Avx512Vnni);
            }
        }
        all
    }

    /// The best of this machine.
    pub fn best() -> Isa {
        *Isa::available().last().expect("plain Rust runs everywhere")
    }

    /// Panels of one task of a product of so many rows of floats: whole tiles.
    pub fn float_panels(self, rows: usize) -> usize {
        match self {
            Isa::Avx512 | Isa::Avx512Vnni if rows >= 8 => 3,
            Isa::Portable | Isa::Avx2 if rows >= 4 => 2,
            _ => 4,
        }
    }
}

/// What a panel may hold for the float tiles.
pub trait Element: Copy + Send + Sync + 'static {
    /// Widens sixteen.
    ///
    /// # Safety
    /// As [`Vector`].
    unsafe fn load<V: Vector>(from: *const Self) -> V;
}

macro_rules! element {
    ($($kind:ty => $load:ident),*) => {
        $(impl Element for $kind {
            #[inline(always)]
            unsafe fn load<V: Vector>(from: *const Self) -> V {
                // SAFETY: sixteen elements are there, and the machine has the instructions of `V`, by the caller.
                unsafe { V::$load(from) }
            }
        })*
    };
}
element!(f32 => load, bf16 => load_bf16, f16 => load_f16, i8 => load_i8);

/// `out[r][c] = sum over k of x[r][k] w[c][k]`, floats.
pub struct FloatJob<E> {
    /// Rows of activations, and elements from one to the next.
    pub x: *const f32,
    pub x_stride: usize,
    pub rows: usize,
    /// Panels `[k][16]`, and elements from one to the next.
    pub w: *const E,
    pub w_stride: usize,
    /// Inputs.
    pub k: usize,
    /// Rows of results, and elements from one to the next.
    pub out: *mut f32,
    pub out_stride: usize,
    /// Columns that exist: those of the last panel beyond are not written.
    pub n: usize,
}

/// The same with quantised weights and activations.
pub struct BlockJob {
    /// Rows of 8-bit activations [blocks * 32], and bytes from one to the next.
    pub x: *const i8,
    pub x_stride: usize,
    /// Their scales and sums, [blocks] for each row.
    pub scales: *const f32,
    pub sums: *const i32,
    pub rows: usize,
    /// Panels, each [blocks][8][16][4] bytes, or with 4 bits [blocks][4][16][4] bytes of two nibbles.
    pub w: *const u8,
    pub four_bits: bool,
    /// Scales of the weights: panels of [blocks][16].
    pub w_scales: *const f16,
    pub blocks: usize,
    pub out: *mut f32,
    pub out_stride: usize,
    pub n: usize,
}

/// Computes panels `first..first + count` of a job.
///
/// # Safety
/// The machine has `isa`; the job's pointers hold what it says, `out` is nobody else's in these columns.
pub unsafe fn floats<E: Element>(isa: Isa, job: &FloatJob<E>, first: usize, count: usize) {
    // SAFETY: the machine has `isa`, and with it the features that each of these enables; the job is what it says, by the caller.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni => floats_avx512(job, first, count),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => floats_avx2(job, first, count),
            _ => float_panels::<Portable, E>(job, first, count),
        }
    }
}

/// [`floats`] for quantised weights.
///
/// # Safety
/// As [`floats`].
pub unsafe fn blocks(isa: Isa, job: &BlockJob, first: usize, count: usize) {
    // SAFETY: the machine has `isa`, and with it the features that each of these enables; the job is what it says, by the caller.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => blocks_vnni(job, first, count),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 => blocks_avx2(job, first, count),
            _ => block_panels::<Portable>(job, first, count),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn floats_avx512<E: Element>(job: &FloatJob<E>, first: usize, count: usize) {
    // SAFETY: the features are those of this function; the rest is the caller's promise.
    unsafe { float_panels::<Avx512, E>(job, first, count) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn floats_avx2<E: Element>(job: &FloatJob<E>, first: usize, count: usize) {
    // SAFETY: `Avx2` needs AVX2 with FMA and F16C, which this function enables and its caller promises; so is the job what it says.
    unsafe { float_panels::<Avx2, E>(job, first, count) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn blocks_vnni(job: &BlockJob, first: usize, count: usize) {
    // SAFETY: `Avx512` needs AVX-512 with VNNI, which this function enables and its caller promises; so is the job what it says.
    unsafe { block_panels::<Avx512>(job, first, count) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn blocks_avx2(job: &BlockJob, first: usize, count: usize) {
    // SAFETY: `Avx2` needs AVX2 with FMA and F16C, which this function enables and its caller promises; so is the job what it says.
    unsafe { block_panels::<Avx2>(job, first, count) }
}

#[inline(always)]
unsafe fn float_panels<V: Vector, E: Element>(job: &FloatJob<E>, first: usize, count: usize) {
    let (mut panel, end) = (first, first + count);
    while panel < end {
        let left = end - panel;
        let wide = if V::WIDE { job.rows >= 8 } else { job.rows >= 4 };
        let panels = match (wide, V::WIDE) {
            (true, true) if left >= 3 => 3,
            (false, _) if left >= 4 => 4,
            _ => 1,
        };
        let mut row = 0;
        while row < job.rows {
            let more = job.rows - row;
            let rows = if V::WIDE && more >= 8 {
                8
            } else if more >= 4 {
                4
            } else {
                1
            };
            // SAFETY: rows and panels are within the job.
            unsafe {
                match (rows, panels) {
                    (8, 3) => float_tile::<V, E, 8, 3>(job, row, panel),
                    (4, 3) => float_tile::<V, E, 4, 3>(job, row, panel),
                    (_, 3) => float_tile::<V, E, 1, 3>(job, row, panel),
                    (4, 4) => float_tile::<V, E, 4, 4>(job, row, panel),
                    (_, 4) => float_tile::<V, E, 1, 4>(job, row, panel),
                    (8, _) => float_tile::<V, E, 8, 1>(job, row, panel),
                    (4, _) => float_tile::<V, E, 4, 1>(job, row, panel),
                    (_, _) => float_tile::<V, E, 1, 1>(job, row, panel),
                }
            }
            row += rows;
        }
        panel += panels;
    }
}

#[inline(always)]
unsafe fn float_tile<V: Vector, E: Element, const M: usize, const P: usize>(
    job: &FloatJob<E>,
    row: usize,
    panel: usize,
) {
    // SAFETY: M rows from `row` and P panels from `panel` are within the job, by `float_panels`.
    unsafe {
        let x: [*const f32; M] = std::array::from_fn(|m| job.x.add((row + m) * job.x_stride));
        let w: [*const E; P] = std::array::from_fn(|p| job.w.add((panel + p) * job.w_stride));
        let mut sums = [[V::splat(0.0); P]; M];
        for k in 0..job.k {
            let mut weights = [V::splat(0.0); P];
            for p in 0..P {
                weights[p] = E::load::<V>(w[p].add(k * LANES));
            }
            for m in 0..M {
                let value = V::splat(*x[m].add(k));
                for p in 0..P {
                    sums[m][p] = sums[m][p].fused(value, weights[p]);
                }
            }
        }
        store(&sums, job.out.add(row * job.out_stride), job.out_stride, panel * LANES, job.n);
    }
}

/// Writes the sums of a tile that starts at `column`, but nothing from column `n` on.
#[inline(always)]
unsafe fn store<V: Vector, const M: usize, const P: usize>(
    sums: &[[V; P]; M],
    out: *mut f32,
    stride: usize,
    column: usize,
    n: usize,
) {
    for (m, sums) in sums.iter().enumerate() {
        for (p, &sums) in sums.iter().enumerate() {
            let column = column + p * LANES;
            // SAFETY: the row is the tile's, and columns end at `n`.
            unsafe {
                let to = out.add(m * stride + column);
                if column + LANES <= n {
                    sums.store(to);
                } else {
                    let mut all = [0.0f32; LANES];
                    sums.store(all.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(all.as_ptr(), to, n - column);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn block_panels<I: Integers>(job: &BlockJob, first: usize, count: usize) {
    let (mut panel, end) = (first, first + count);
    let wide = I::Floats::WIDE;
    while panel < end {
        let panels = if job.rows < 4 && end - panel >= 4 { 4 } else { 1 };
        let mut row = 0;
        while row < job.rows {
            let more = job.rows - row;
            let rows = if wide && more >= 8 {
                8
            } else if more >= 4 {
                4
            } else {
                1
            };
            // SAFETY: rows and panels are within the job.
            unsafe {
                match (rows, panels, job.four_bits) {
                    (8, _, false) => block_tile::<I, false, 8, 1>(job, row, panel),
                    (4, _, false) => block_tile::<I, false, 4, 1>(job, row, panel),
                    (_, 4, false) => block_tile::<I, false, 1, 4>(job, row, panel),
                    (_, _, false) => block_tile::<I, false, 1, 1>(job, row, panel),
                    (8, _, true) => block_tile::<I, true, 8, 1>(job, row, panel),
                    (4, _, true) => block_tile::<I, true, 4, 1>(job, row, panel),
                    (_, 4, true) => block_tile::<I, true, 1, 4>(job, row, panel),
                    (_, _, true) => block_tile::<I, true, 1, 1>(job, row, panel),
                }
            }
            row += rows;
        }
        panel += panels;
    }
}

#[inline(always)]
unsafe fn block_tile<I: Integers, const FOUR: bool, const M: usize, const P: usize>(
    job: &BlockJob,
    row: usize,
    panel: usize,
) {
    // SAFETY: M rows from `row` and P panels from `panel` are within the job, by `block_panels`.
    unsafe {
        let bytes = if FOUR { BLOCK / 2 * LANES } else { BLOCK * LANES };
        let offset = if FOUR { 8 } else { I::OFFSET };
        let x: [*const i8; M] = std::array::from_fn(|m| job.x.add((row + m) * job.x_stride));
        let first = row * job.blocks;
        let w: [*const u8; P] = std::array::from_fn(|p| job.w.add((panel + p) * job.blocks * bytes));
        let scales: [*const f16; P] = std::array::from_fn(|p| job.w_scales.add((panel + p) * job.blocks * LANES));
        let mut total = [[I::Floats::splat(0.0); P]; M];
        for block in 0..job.blocks {
            let mut sums = [[I::splat(0); P]; M];
            for (m, sums) in sums.iter_mut().enumerate() {
                *sums = [I::splat(-offset * *job.sums.add(first + m * job.blocks + block)); P];
            }
            for quad in 0..if FOUR { 4 } else { 8 } {
                let at = block * bytes + quad * 4 * LANES;
                for p in 0..P {
                    if FOUR {
                        let (low, high) = I::load_nibbles(w[p].add(at));
                        for m in 0..M {
                            let x = x[m].add(block * BLOCK + quad * 4);
                            sums[m][p] = I::dot_nibbles(sums[m][p], low, x);
                            sums[m][p] = I::dot_nibbles(sums[m][p], high, x.add(BLOCK / 2));
                        }
                    } else {
                        let weights = I::load(w[p].add(at).cast());
                        for m in 0..M {
                            sums[m][p] = I::dot(sums[m][p], weights, x[m].add(block * BLOCK + quad * 4));
                        }
                    }
                }
            }
            for p in 0..P {
                let scale = I::Floats::load_f16(scales[p].add(block * LANES));
                for m in 0..M {
                    let both = I::Floats::splat(*job.scales.add(first + m * job.blocks + block)).times(scale);
                    total[m][p] = total[m][p].plus(both.times(I::floats(sums[m][p])));
                }
            }
        }
        store(&total, job.out.add(row * job.out_stride), job.out_stride, panel * LANES, job.n);
    }
}
