//! Matrix products on the CPU: `C = A B` or `C += A B` over strided matrices in f32 or bf16. Sums are in f32, and a
//! result in bf16 is rounded once.
//!
//! On a CPU with AMX, larger products in f32 are made in its tiles of bf16, with each value as the sum of three bf16:
//! six of the nine products of parts give sums nearer to the true ones than fused multiply-adds in f32 do, in less than
//! half the time (docs/decisions/0009-fp32-in-bf16-tiles.md). Products in bf16 are made in tiles by AMX or AVX512-BF16.
//! All others are made by the gemm crate, with operands in bf16 widened first.
//!
//! All give the same bits whatever the number of threads (how rows and columns are shared out does not change the order
//! of the sums). In tiles, a row's bits do not depend on the others'; in the gemm crate one to three rows go another
//! way than more.

#[cfg(target_arch = "x86_64")]
mod pack;
pub mod peak;
#[cfg(target_arch = "x86_64")]
mod tiled;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod units;
mod wide;

use rayon::prelude::*;

use super::element::Element;
use crate::device::pool::HostBuffer;
use crate::ops::simd;

/// A strided matrix to read.
#[derive(Clone, Copy)]
pub struct Mat<'a, E = f32> {
    data: &'a [E],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, E: Element> Mat<'a, E> {
    /// A row-major matrix whose rows start `row_stride` elements apart.
    ///
    /// # Panics
    /// If it reaches past the end of `data`.
    pub fn strided(data: &'a [E], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(), "a matrix past its data");
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// A contiguous row-major matrix.
    pub fn new(data: &'a [E], rows: usize, cols: usize) -> Self {
        Mat::strided(data, rows, cols, cols)
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Mat { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Some of its rows.
    fn part(self, rows: std::ops::Range<usize>) -> Self {
        Mat { data: &self.data[rows.start * self.row_stride..], rows: rows.len(), ..self }
    }
}

/// A strided row-major matrix to write.
pub struct MatMut<'a, E = f32> {
    data: &'a mut [E],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a, E: Element> MatMut<'a, E> {
    /// A row-major matrix whose rows start `row_stride` elements apart.
    ///
    /// # Panics
    /// If it reaches past the end of `data`, or rows overlap.
    pub fn strided(data: &'a mut [E], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(), "a matrix past its data");
        assert!(rows < 2 || row_stride >= cols, "overlapping rows of a result");
        MatMut { data, rows, cols, row_stride }
    }

    /// A contiguous row-major matrix.
    pub fn new(data: &'a mut [E], rows: usize, cols: usize) -> Self {
        let stride = cols;
        MatMut::strided(data, rows, cols, stride)
    }
}

/// What becomes of the old content of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// It is overwritten.
    Set,
    /// The product is added to it.
    Add,
}

/// Who works on a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All cores.
    All,
    /// The calling thread alone, where the caller is parallel already.
    One,
}

/// `c = scale * a b` or `c += scale * a b`.
///
/// # Panics
/// If the shapes do not fit.
pub fn gemm<A: Element, C: Element>(
    c: MatMut<'_, C>,
    into: Into,
    scale: f32,
    a: Mat<'_, A>,
    b: Mat<'_, A>,
    threads: Threads,
) {
    multiply(c, Finish { into, scale, bias: None }, a, b, threads);
}

/// `c = a b + bias`, with `bias` `[columns]` added to every row.
///
/// # Panics
/// If the shapes do not fit.
pub fn gemm_bias<A: Element, C: Element>(c: MatMut<'_, C>, a: Mat<'_, A>, b: Mat<'_, A>, bias: &[A], threads: Threads) {
    assert_eq!(bias.len(), c.cols, "a bias for every column");
    multiply(c, Finish { into: Into::Set, scale: 1.0, bias: Some(bias) }, a, b, threads);
}

/// What is done with the sums: `c = [c +] scale * sums [+ bias]`, rounded once.
#[derive(Clone, Copy)]
struct Finish<'b, A> {
    into: Into,
    scale: f32,
    bias: Option<&'b [A]>,
}

impl<A: Element> Finish<'_, A> {
    /// The sums themselves.
    const PLAIN: Finish<'static, A> = Finish { into: Into::Set, scale: 1.0, bias: None };
}

fn multiply<A: Element, C: Element>(
    c: MatMut<'_, C>,
    finish: Finish<'_, A>,
    a: Mat<'_, A>,
    b: Mat<'_, A>,
    threads: Threads,
) {
    assert_eq!((c.rows, c.cols, a.cols), (a.rows, b.cols, b.rows), "shapes of a matrix product");
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = tiles::unit::<A>([c.rows, c.cols, a.cols]) {
        if tiles::at_once::<A, C>(a.cols) {
            return tiles::multiply(unit, c, finish, a, b, threads);
        }
        let sums = |sums: MatMut<'_>, a: Mat<'_, A>| tiles::multiply(unit, sums, Finish::PLAIN, a, b, threads);
        return through_sums(c, finish, a, threads, sums);
    }
    wide::multiply(c, finish, a, b, threads);
}

/// A result in bf16 by way of sums in f32, some rows at a time.
fn through_sums<A: Element, C: Element>(
    c: MatMut<'_, C>,
    finish: Finish<'_, A>,
    a: Mat<'_, A>,
    threads: Threads,
    mut product: impl FnMut(MatMut<'_>, Mat<'_, A>),
) {
    let MatMut { data, rows, cols, row_stride } = c;
    if rows == 0 || cols == 0 {
        return;
    }
    let step = wide::rows_at_a_time(cols).min(rows);
    let mut buffer = HostBuffer::workspace(size_of::<f32>() * step * cols);
    let row = |to: &mut [C], sums: &[f32]| round_row(&mut to[..cols], sums, finish);
    for (part, to) in data.chunks_mut(step * row_stride).enumerate().take(rows.div_ceil(step)) {
        let part = step * part..rows.min(step * (part + 1));
        let sums = &mut bytemuck::cast_slice_mut::<u8, f32>(buffer.bytes_mut())[..part.len() * cols];
        product(MatMut::new(sums, part.len(), cols), a.part(part));
        match threads {
            Threads::All => to.par_chunks_mut(row_stride).zip(sums.par_chunks(cols)).for_each(|(to, s)| row(to, s)),
            Threads::One => to.chunks_mut(row_stride).zip(sums.chunks(cols)).for_each(|(to, s)| row(to, s)),
        }
    }
}

simd! {
    fn round_row<A: Element, C: Element>(to: &mut [C], sums: &[f32], finish: Finish<'_, A>) {
        for (i, (to, sum)) in to.iter_mut().zip(sums).enumerate() {
            let old = if finish.into == Into::Add { to.load() } else { 0.0 };
            *to = C::store(old + finish.scale * sum + finish.bias.map_or(0.0, |bias| bias[i].load()));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use half::bf16;

    /// Numbers of so few digits that sums of their products are exact.
    pub fn fill<E: Element>(n: usize, step: usize) -> Vec<E> {
        (0..n).map(|i| E::store(((i * step + 3) % 17) as f32 / 8.0 - 1.0)).collect()
    }

    #[test]
    fn products_equal_f64_sums_in_every_layout() {
        for (m, k, n) in [(1, 5, 7), (3, 4, 1), (9, 33, 17), (64, 64, 64)] {
            let (a, b) = (fill(m * (k + 2), 7), fill(n * k, 5));
            for threads in [Threads::All, Threads::One] {
                let mut c = vec![1.0; m * n];
                let (a, b) = (Mat::strided(&a, m, k, k + 2), Mat::new(&b, n, k).t());
                gemm(MatMut::new(&mut c, m, n), Into::Add, 2.0, a, b, threads);
                for i in 0..m {
                    for j in 0..n {
                        let at = |m: Mat<'_>, i, j| f64::from(m.data[i * m.row_stride + j * m.col_stride]);
                        let truth = 1.0 + 2.0 * (0..k).map(|l| at(a, i, l) * at(b, l, j)).sum::<f64>();
                        assert!((f64::from(c[i * n + j]) - truth).abs() < 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn operands_in_bf16_are_exact_and_results_rounded_once() {
        for (m, k, n) in [(1, 5, 7), (9, 33, 17), (64, 64, 64)] {
            let (a, b) = (fill(m * (k + 2), 7), fill(n * k, 5));
            let wide = |x: &[bf16]| x.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
            let (wide_a, wide_b) = (wide(&a), wide(&b));
            let (mut c, mut sum, mut narrow) = (vec![1.0; m * n], vec![1.0; m * n], vec![bf16::ONE; m * (n + 3)]);
            gemm(
                MatMut::new(&mut c, m, n),
                Into::Add,
                0.5,
                Mat::strided(&wide_a, m, k, k + 2),
                Mat::new(&wide_b, n, k).t(),
                Threads::One,
            );
            let (a, b) = (Mat::strided(&a, m, k, k + 2), Mat::new(&b, n, k).t());
            gemm(MatMut::new(&mut sum, m, n), Into::Add, 0.5, a, b, Threads::One);
            gemm(MatMut::strided(&mut narrow, m, n, n + 3), Into::Set, 0.5, a, b, Threads::All);
            for i in 0..m {
                for j in 0..n {
                    assert!((c[i * n + j] - sum[i * n + j]).abs() < 1e-5);
                    let (found, truth) = (narrow[i * (n + 3) + j].to_f32(), c[i * n + j] - 1.0);
                    assert!((found - truth).abs() <= truth.abs() / 256.0 + 1e-5, "{found} for {truth}");
                }
                assert!(narrow[i * (n + 3)..][n..][..3].iter().all(|&gap| gap == bf16::ONE));
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_unit_of_this_machine_multiplies_bf16() {
        let units = crate::device::bf16_unit::Bf16Unit::all();
        if units.is_empty() {
            eprintln!("skipped: this CPU does not multiply bf16");
        }
        for unit in units {
            for [m, n, k] in [[1, 1, 1], [33, 70, 65], [64, 32, 96], [40, 2100, 31], [20, 17, 3200]] {
                for transposed in [[false, false], [true, true]] {
                    let [a, b]: [Vec<bf16>; 2] = [fill(m * k, 7), fill(k * n, 5)];
                    let a = if transposed[0] { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
                    let b = if transposed[1] { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
                    let mut c = vec![0.5f32; m * n];
                    let finish = Finish { into: Into::Add, ..Finish::PLAIN };
                    tiles::multiply(unit, MatMut::new(&mut c, m, n), finish, a, b, Threads::All);
                    let at =
                        |m: Mat<'_, bf16>, i: usize, j: usize| m.data[i * m.row_stride + j * m.col_stride].to_f64();
                    for (place, &found) in c.iter().enumerate() {
                        // Numbers of so few digits that their sums are exact in f32.
                        let truth = 0.5 + (0..k).map(|l| at(a, place / n, l) * at(b, l, place % n)).sum::<f64>();
                        assert_eq!(f64::from(found), truth, "{unit:?} {m} x {n} x {k}, element {place}");
                    }
                }
            }
        }
    }

    /// The squared errors, against f64, of a product by the engine and of one by fused multiply-adds in order.
    fn errors([m, n, k]: [usize; 3], transposed: [bool; 2]) -> [f64; 2] {
        let fill = |n: usize, seed: u64| -> Vec<f32> {
            let purpose = crate::random::Purpose::Test;
            (0..n as u64).map(|i| crate::random::uniform(seed, purpose, i, 0) as f32 * 2.0 - 1.0).collect()
        };
        let (a, b) = (fill(m * k, 1), fill(k * n, 2));
        let a = if transposed[0] { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
        let b = if transposed[1] { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
        let mut c = vec![f32::NAN; m * n];
        gemm(MatMut::new(&mut c, m, n), Into::Set, 1.0, a, b, Threads::All);
        let at = |m: Mat<'_>, i, j| m.data[i * m.row_stride + j * m.col_stride];
        let mut squares = [0.0; 2];
        for i in 0..m {
            for j in 0..n {
                let (mut truth, mut plain) = (0.0f64, 0.0f32);
                for l in 0..k {
                    truth += f64::from(at(a, i, l)) * f64::from(at(b, l, j));
                    plain = at(a, i, l).mul_add(at(b, l, j), plain);
                }
                squares[0] += (f64::from(c[i * n + j]) - truth).powi(2);
                squares[1] += (f64::from(plain) - truth).powi(2);
            }
        }
        squares
    }

    #[test]
    fn large_products_are_at_least_as_exact_as_fused_multiply_adds() {
        let in_tiles =
            crate::device::bf16_unit::Bf16Unit::of_this_machine() == Some(crate::device::bf16_unit::Bf16Unit::Amx);
        for shape in [[64, 96, 192], [70, 90, 190], [33, 65, 1100], [40, 48, 2500], [65, 2100, 40]] {
            for transposed in [[false, false], [false, true], [true, false], [true, true]] {
                let [ours, plain] = errors(shape, transposed);
                // The gemm crate adds in another order, and on old machines rounds products: about as exact.
                let most = if in_tiles { 1.05 } else { 1.5 };
                assert!(ours <= most * plain, "{shape:?} {transposed:?}: {ours:e} against {plain:e}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_the_bits() {
        let fill = |n: usize| (0..n).map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0).collect::<Vec<_>>();
        let (a, b) = (fill(130 * 300), fill(300 * 260));
        let product = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut c = vec![0.0; 130 * 260];
            pool.install(|| {
                let c = MatMut::new(&mut c, 130, 260);
                gemm(c, Into::Set, 1.0, Mat::new(&a, 130, 300), Mat::new(&b, 300, 260), Threads::All);
            });
            c
        };
        assert_eq!(product(1), product(2));
        assert_eq!(product(1), product(5));
    }
}
