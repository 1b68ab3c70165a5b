//! Weight matrices packed for the tiles, in the number format they are kept in.
//!
//! `q8_0` and `q4_0` are ggml's: blocks of 32 weights of one row with a scale d in f16; 8-bit numbers q of -127 to 127 stand
//! for q d, 4-bit numbers of 0 to 15 for (q - 8) d. The numbers are those that ggml's reference quantiser makes; only their
//! order in memory is ours.

use half::{bf16, f16};
use rayon::prelude::*;

use super::kernels::BLOCK;
use super::vector::LANES;
use crate::decode::WeightFormat;

/// Zeroed memory that starts at a cache line.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// Pages are only taken from the system when they are first written.
    pub fn zeroed(len: usize) -> Buffer {
        const LINE: usize = 64;
        let bytes = vec![0u8; len + LINE];
        let start = bytes.as_ptr().align_offset(LINE).min(LINE);
        Buffer { bytes, start, len }
    }

    /// The same for what will be written and read as a whole: in large pages, where the system has them.
    pub fn zeroed_whole(len: usize) -> Buffer {
        let buffer = Buffer::zeroed(len);
        #[cfg(target_os = "linux")]
        if len >= 4 << 20 {
            const LARGE: usize = 2 << 20;
            let all = &buffer.bytes;
            let first = all.as_ptr().align_offset(LARGE);
            if first + LARGE <= all.len() {
                let whole = (all.len() - first) / LARGE * LARGE;
                // SAFETY: whole large pages inside our own memory. It is advice: a refusal changes nothing.
                unsafe { libc::madvise(all.as_ptr().add(first).cast_mut().cast(), whole, libc::MADV_HUGEPAGE) };
            }
        }
        buffer
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    /// As elements of a plain type.
    pub fn of<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(self.bytes())
    }
}

/// A matrix [N, K] of weights: N outputs, K inputs, in panels of sixteen outputs.
#[derive(Debug)]
pub struct Matrix {
    format: WeightFormat,
    n: usize,
    k: usize,
    data: Buffer,
    /// Of quantised weights: panels of [blocks][16].
    scales: Vec<f16>,
}

impl Matrix {
    /// Packs the rows [N, K] of `values`.
    pub fn pack(format: WeightFormat, values: &[f32], n: usize, k: usize) -> Matrix {
        assert_eq!(values.len(), n * k, "a matrix of {n} by {k}");
        let (panels, blocks) = (n.div_ceil(LANES), k.div_ceil(BLOCK));
        let bytes = panel_bytes(format, k);
        let mut data = Buffer::zeroed_whole(panels * bytes);
        let mut scales = vec![f16::ZERO; if format.is_quantised() { panels * blocks * LANES } else { 0 }];
        let rows = |panel: usize| (0..LANES.min(n - panel * LANES)).map(move |lane| (lane, panel * LANES + lane));
        let row = |row: usize| &values[row * k..(row + 1) * k];
        let chunks = data.bytes_mut().par_chunks_exact_mut(bytes).enumerate();
        match format {
            WeightFormat::Fp32 => chunks.for_each(|(panel, to)| {
                rows(panel).for_each(|(lane, at)| spread(bytemuck::cast_slice_mut(to), lane, row(at), |x| x));
            }),
            WeightFormat::Bf16 => chunks.for_each(|(panel, to)| {
                rows(panel).for_each(|(lane, at)| spread(bytemuck::cast_slice_mut(to), lane, row(at), bf16::from_f32));
            }),
            WeightFormat::Fp16 => chunks.for_each(|(panel, to)| {
                rows(panel).for_each(|(lane, at)| spread(bytemuck::cast_slice_mut(to), lane, row(at), f16::from_f32));
            }),
            WeightFormat::Q8_0 | WeightFormat::Q4_0 => {
                chunks.zip(scales.par_chunks_exact_mut(blocks * LANES)).for_each(|((panel, to), scales)| {
                    for (lane, at) in rows(panel) {
                        for (block, weights) in row(at).chunks(BLOCK).enumerate() {
                            let mut padded = [0.0; BLOCK];
                            padded[..weights.len()].copy_from_slice(weights);
                            scales[block * LANES + lane] = match format {
                                WeightFormat::Q8_0 => eight_bits(to, block, lane, &padded),
                                _ => four_bits(to, block, lane, &padded),
                            };
                        }
                    }
                    // A row that does not exist, or a block's end that does not, is zero: 8 in four bits.
                    if format == WeightFormat::Q4_0 {
                        let absent = LANES.min(n - panel * LANES)..LANES;
                        let zeros = [0.0; BLOCK];
                        for (lane, block) in absent.flat_map(|lane| (0..blocks).map(move |block| (lane, block))) {
                            four_bits(to, block, lane, &zeros);
                        }
                    }
                });
            }
        }
        Matrix { format, n, k, data, scales }
    }

    /// The number format.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Panels of sixteen outputs.
    pub fn panels(&self) -> usize {
        self.n.div_ceil(LANES)
    }

    /// Blocks of 32 inputs, the last one padded.
    pub fn blocks(&self) -> usize {
        self.k.div_ceil(BLOCK)
    }

    /// The packed weights.
    pub fn data(&self) -> &Buffer {
        &self.data
    }

    /// The scales of quantised weights.
    pub fn scales(&self) -> &[f16] {
        &self.scales
    }

    /// Bytes that a product reads.
    pub fn bytes(&self) -> usize {
        self.data.len + self.scales.len() * 2
    }

    /// Row `row` widened to f32: a token's embedding.
    pub fn row(&self, row: usize, to: &mut [f32]) {
        assert!(row < self.n && to.len() == self.k, "row {row} of {}", self.n);
        let (panel, lane) = (row / LANES, row % LANES);
        let bytes = panel_bytes(self.format, self.k);
        let from = &self.data.bytes()[panel * bytes..][..bytes];
        let scale = |at: usize| {
            let place = (panel * self.blocks() + at / BLOCK) * LANES + lane;
            self.scales[place].to_f32()
        };
        match self.format {
            WeightFormat::Fp32 => gather(to, bytemuck::cast_slice(from), lane, |x: f32| x),
            WeightFormat::Bf16 => gather(to, bytemuck::cast_slice(from), lane, bf16::to_f32),
            WeightFormat::Fp16 => gather(to, bytemuck::cast_slice(from), lane, f16::to_f32),
            WeightFormat::Q8_0 => to.iter_mut().enumerate().for_each(|(at, to)| {
                let q = from[eight_bit_place(at / BLOCK, lane, at % BLOCK)] as i8;
                *to = f32::from(q) * scale(at);
            }),
            WeightFormat::Q4_0 => to.iter_mut().enumerate().for_each(|(at, to)| {
                let (place, shift) = four_bit_place(at / BLOCK, lane, at % BLOCK);
                let q = (from[place] >> shift & 15) as i8 - 8;
                *to = f32::from(q) * scale(at);
            }),
        }
    }
}

/// Bytes of a panel of K inputs.
fn panel_bytes(format: WeightFormat, k: usize) -> usize {
    let padded = k.next_multiple_of(BLOCK);
    match format {
        WeightFormat::Fp32 => k * LANES * 4,
        WeightFormat::Bf16 | WeightFormat::Fp16 => k * LANES * 2,
        WeightFormat::Q8_0 => padded * LANES,
        WeightFormat::Q4_0 => padded * LANES / 2,
    }
}

fn spread<T>(panel: &mut [T], lane: usize, row: &[f32], narrow: impl Fn(f32) -> T) {
    for (to, &value) in panel[lane..].iter_mut().step_by(LANES).zip(row) {
        *to = narrow(value);
    }
}

fn gather<T: Copy>(to: &mut [f32], panel: &[T], lane: usize, widen: impl Fn(T) -> f32) {
    for (to, &value) in to.iter_mut().zip(panel[lane..].iter().step_by(LANES)) {
        *to = widen(value);
    }
}

/// Where weight `at` of a block stands in its panel: [block][quad][lane][4].
fn eight_bit_place(block: usize, lane: usize, at: usize) -> usize {
    ((block * 8 + at / 4) * LANES + lane) * 4 + at % 4
}

/// The byte and the shift of weight `at`: the second half of a block stands in the high nibbles of the first.
fn four_bit_place(block: usize, lane: usize, at: usize) -> (usize, u32) {
    let half = at % (BLOCK / 2);
    (((block * 4 + half / 4) * LANES + lane) * 4 + half % 4, if at < BLOCK / 2 { 0 } else { 4 })
}

/// Writes a block of `q8_0`; gives the scale: the largest weight stands for 127.
fn eight_bits(panel: &mut [u8], block: usize, lane: usize, weights: &[f32; BLOCK]) -> f16 {
    let most = weights.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let scale = most / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (at, x) in weights.iter().enumerate() {
        panel[eight_bit_place(block, lane, at)] = (x * inverse).round().clamp(-127.0, 127.0) as i8 as u8;
    }
    f16::from_f32(scale)
}

/// Writes a block of `q4_0`; gives the scale: the weight farthest from zero stands for -8.
fn four_bits(panel: &mut [u8], block: usize, lane: usize, weights: &[f32; BLOCK]) -> f16 {
    let most = weights.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
    let scale = most / -8.0;
    let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    for (at, x) in weights.iter().enumerate() {
        let q = (x * inverse + 8.5).clamp(0.0, 15.0) as u8;
        let (place, shift) = four_bit_place(block, lane, at);
        panel[place] = panel[place] & !(15 << shift) | q << shift;
    }
    f16::from_f32(scale)
}
