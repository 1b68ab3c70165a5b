//! Products of activations with packed weights, shared among threads by panels.

use half::{bf16, f16};

use super::kernels::{self, BLOCK, BlockJob, Element, FloatJob, Isa};
use super::matrix::Matrix;
use super::pool::Pool;
use super::vector::LANES;
use crate::decode::WeightFormat;
use crate::ops::{lanes, simd};
use crate::parallel::Parts;

/// Activations for quantised weights: 8-bit numbers with a scale (f32) for each block of 32, made anew for every product.
#[derive(Debug, Default)]
pub struct Quantised {
    values: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl Quantised {
    /// Room for so many rows of so many inputs.
    pub fn new(rows: usize, k: usize) -> Quantised {
        let blocks = rows * k.div_ceil(BLOCK);
        Quantised { values: vec![0; blocks * BLOCK], scales: vec![0.0; blocks], sums: vec![0; blocks] }
    }

    /// Takes in rows [rows, K], `stride` apart.
    pub fn fill(&mut self, pool: &mut Pool, x: &[f32], stride: usize, rows: usize, k: usize) {
        let blocks = k.div_ceil(BLOCK);
        let (values, scales) = (Parts::new(&mut self.values), Parts::new(&mut self.scales));
        let sums = Parts::new(&mut self.sums);
        each_row(pool, rows, &|row| {
            // SAFETY: `each_row` calls this once for each row, and the blocks `row * blocks..(row + 1) * blocks` are the row's alone.
            let (values, scales, sums) = unsafe {
                let values = values.part(row * blocks * BLOCK, blocks * BLOCK);
                (values, scales.part(row * blocks, blocks), sums.part(row * blocks, blocks))
            };
            quantise(&x[row * stride..row * stride + k], values, scales, sums);
        });
    }
}

/// Calls `work` for each row; few rows on the calling thread alone, because waking others would cost more.
pub fn each_row(pool: &mut Pool, rows: usize, work: &(dyn Fn(usize) + Sync)) {
    const TOGETHER: usize = 4;
    if rows <= TOGETHER {
        (0..rows).for_each(work);
    } else {
        pool.run(rows.div_ceil(TOGETHER), &|_, task| {
            (task * TOGETHER..rows.min((task + 1) * TOGETHER)).for_each(work);
        });
    }
}

simd! {
    /// The largest number of a block becomes 127; halves round to even. A block with a number that is not finite gets a
    /// scale that is not, so that it shows.
    fn quantise(x: &[f32], values: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
        const ROUND: f32 = 12_582_912.0;
        let blocks = values.chunks_exact_mut(BLOCK).zip(x.chunks(BLOCK)).zip(scales).zip(sums);
        for (((values, x), scale), sum) in blocks {
            let mut padded = [0.0f32; BLOCK];
            padded[..x.len()].copy_from_slice(x);
            let mut sizes = [0.0f32; BLOCK];
            for (size, x) in sizes.iter_mut().zip(&padded) {
                *size = x.abs();
            }
            let most = lanes::max(&sizes);
            *scale = most / 127.0;
            let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
            let mut total = 0i32;
            for (value, x) in values.iter_mut().zip(&padded) {
                let q = ((x * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32) as i8;
                *value = q;
                total += i32::from(q);
            }
            *sum = total;
        }
    }
}

/// What becomes of a product's results while they are in the nearest cache: columns `first..` of one row.
pub type Finish<'a> = dyn Fn(&mut [f32], usize) + Sync + 'a;

/// Rows of activations, `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
    /// How many.
    pub count: usize,
}

/// `out` [rows, N] = `x` [rows, K] times the matrix, then `finish`. Quantised weights take `quantised` in place of `x`.
pub fn product(
    pool: &mut Pool,
    isa: Isa,
    x: Rows<'_>,
    quantised: &Quantised,
    w: &Matrix,
    out: &mut [f32],
    finish: &Finish<'_>,
) {
    let n = w.n();
    assert!(out.len() >= x.count * n, "{} results for {} by {n}", out.len(), x.count);
    assert!(w.format().is_quantised() || x.data.len() >= x.count.saturating_sub(1) * x.stride + w.k());
    let per_task = match w.format().is_quantised() {
        true => 4,
        false => isa.float_panels(x.count),
    };
    let out = Parts::new(&mut out[..x.count * n]);
    let finish_panels = |first: usize, count: usize| {
        let columns = first * LANES..n.min((first + count) * LANES);
        for row in 0..x.count {
            // SAFETY: panels `first..first + count` are one task's, so these columns are, too; its tiles have written them and
            // returned, and the slice of one row is gone before the next row's.
            let part = unsafe { out.part(row * n + columns.start, columns.len()) };
            finish(part, columns.start);
        }
    };
    let tasks = w.panels().div_ceil(per_task);
    pool.run(tasks, &|_, task| {
        let first = task * per_task;
        let count = per_task.min(w.panels() - first);
        let to = out.at(0);
        // SAFETY: `x`, the matrix and `out` have the sizes asserted above, which are those of the job; `Isa` names only what this
        // machine has. Through `to`, tiles write the columns of panels `first..first + count` and no others, and this
        // task alone has these panels.
        unsafe {
            match w.format() {
                WeightFormat::Fp32 => kernels::floats(isa, &float_job::<f32>(x, w, to), first, count),
                WeightFormat::Bf16 => kernels::floats(isa, &float_job::<bf16>(x, w, to), first, count),
                WeightFormat::Fp16 => kernels::floats(isa, &float_job::<f16>(x, w, to), first, count),
                WeightFormat::Q8_0 | WeightFormat::Q4_0 => {
                    kernels::blocks(isa, &block_job(x.count, quantised, w, to), first, count);
                }
            }
        }
        finish_panels(first, count);
    });
}

fn float_job<E: Element + bytemuck::Pod>(x: Rows<'_>, w: &Matrix, out: *mut f32) -> FloatJob<E> {
    FloatJob {
        x: x.data.as_ptr(),
        x_stride: x.stride,
        rows: x.count,
        w: w.data().of::<E>().as_ptr(),
        w_stride: w.k() * LANES,
        k: w.k(),
        out,
        out_stride: w.n(),
        n: w.n(),
    }
}

fn block_job(rows: usize, x: &Quantised, w: &Matrix, out: *mut f32) -> BlockJob {
    let blocks = w.blocks();
    assert!(x.sums.len() >= rows * blocks, "quantised rows");
    BlockJob {
        x: x.values.as_ptr(),
        x_stride: blocks * BLOCK,
        scales: x.scales.as_ptr(),
        sums: x.sums.as_ptr(),
        rows,
        w: w.data().bytes().as_ptr(),
        four_bits: w.format() == WeightFormat::Q4_0,
        w_scales: w.scales().as_ptr(),
        blocks,
        out,
        out_stride: w.n(),
        n: w.n(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small enough for an interpreter: tasks of several threads write their columns, and finish them, in one buffer.
    #[test]
    fn tasks_write_and_finish_their_own_columns() {
        let (rows, k, n) = (3, 40, 5 * LANES + 3);
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 64.0;
        let x: Vec<f32> = (0..rows * k).map(value).collect();
        let w: Vec<f32> = (0..n * k).map(|i| value(i + 7)).collect();
        let mut pool = Pool::new(3);
        for format in [WeightFormat::Fp32, WeightFormat::Q8_0] {
            let matrix = Matrix::pack(format, &w, n, k);
            let mut quantised = Quantised::new(rows, k);
            quantised.fill(&mut pool, &x, k, rows, k);
            let mut out = vec![0.0; rows * n];
            let of_rows = Rows { data: &x, stride: k, count: rows };
            let finish: &Finish<'_> = &|part, first| {
                part.iter_mut().enumerate().for_each(|(i, value)| *value += (first + i) as f32);
            };
            product(&mut pool, Isa::Portable, of_rows, &quantised, &matrix, &mut out, finish);
            for (row, out) in out.chunks_exact(n).enumerate() {
                for (column, &found) in out.iter().enumerate() {
                    let terms = x[row * k..][..k].iter().zip(&w[column * k..][..k]);
                    let expected = column as f64 + terms.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>();
                    let off = (f64::from(found) - expected).abs();
                    assert!(off < 0.1, "{format:?}, row {row}, column {column}: {found}, not {expected}");
                }
            }
        }
    }
}
