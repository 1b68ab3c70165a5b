//! Matrix products on the CPU: `C = A B` or `C += A B` over strided matrices in fp32.
//!
//! On a CPU with AMX, larger products are made in its tiles of bf16, with each fp32 value as the sum of three bf16: six of the
//! nine products of parts give sums that are nearer to the true ones than those of fused multiply-adds in fp32, and twice as
//! fast as the CPU could make these (docs/decisions/0008). All others are made by the gemm crate.
//!
//! Both give the same bits whatever the number of threads (how rows and columns are shared out does not change the order of
//! the sums). In tiles, a row's bits do not depend on the others'; in the gemm crate one to three rows go another way than more.

#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod tiled;
#[cfg(target_arch = "x86_64")]
mod units;

use gemm::Parallelism;

use super::simd;
#[cfg(target_arch = "x86_64")]
use crate::device::bf16_unit::Bf16Unit;

/// A strided matrix to read.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix whose rows start `row_stride` elements apart.
    ///
    /// # Panics
    /// If it reaches past the end of `data`.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(), "a matrix past its data");
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// A contiguous row-major matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Mat::strided(data, rows, cols, cols)
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Mat { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// A strided row-major matrix to write.
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// A row-major matrix whose rows start `row_stride` elements apart.
    ///
    /// # Panics
    /// If it reaches past the end of `data`.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(), "a matrix past its data");
        MatMut { data, rows, cols, row_stride }
    }

    /// A contiguous row-major matrix.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
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
pub fn gemm(c: MatMut<'_>, into: Into, scale: f32, a: Mat<'_>, b: Mat<'_>, threads: Threads) {
    assert_eq!((c.rows, c.cols, a.cols), (a.rows, b.cols, b.rows), "shapes of a matrix product");
    #[cfg(target_arch = "x86_64")]
    if Bf16Unit::of_this_machine() == Some(Bf16Unit::Amx) && worth_tiles([c.rows, c.cols, a.cols]) {
        return in_tiles(c, into, scale, a, b, threads);
    }
    by_the_crate(c, into, scale, a, b, threads);
}

/// Whether a product of this shape is faster in tiles, with what packing costs; a function of the shape, because it decides
/// bits.
#[cfg(target_arch = "x86_64")]
fn worth_tiles(shape: [usize; 3]) -> bool {
    shape.iter().all(|&extent| extent >= 32) && shape.iter().product::<usize>() >= 1 << 19
}

#[cfg(target_arch = "x86_64")]
fn in_tiles(c: MatMut<'_>, into: Into, scale: f32, a: Mat<'_>, b: Mat<'_>, threads: Threads) {
    let shape = [c.rows, c.cols, a.cols];
    let lines = |m: Mat<'_>| pack::Lines { data: m.data.as_ptr(), line: m.row_stride, k: m.col_stride };
    let (out, stride) = (Out(c.data.as_mut_ptr()), c.row_stride);
    let take = |block: &units::Block, place: tiled::Place| {
        let to = out.at(place.row * stride + place.column);
        let add = into == Into::Add || !place.first;
        // SAFETY: inside `c`, as its constructor checked; blocks are disjoint.
        unsafe { put(to, stride, &block.0, [place.rows, place.columns], scale, add) };
    };
    // SAFETY: the constructors of Mat checked that the matrices are inside their slices; one of a matrix's strides is 1.
    unsafe { tiled::multiply(Bf16Unit::Amx, shape, lines(a), lines(b.t()), threads, take) };
}

/// A result of which tasks write blocks that they do not share.
#[cfg(target_arch = "x86_64")]
struct Out(*mut f32);

#[cfg(target_arch = "x86_64")]
// SAFETY: who writes vouches for disjoint blocks.
unsafe impl Sync for Out {}

#[cfg(target_arch = "x86_64")]
impl Out {
    fn at(&self, element: usize) -> *mut f32 {
        self.0.wrapping_add(element)
    }
}

#[cfg(target_arch = "x86_64")]
simd! {
    /// Writes or adds the first `rows` x `columns` of a block of 32 x 32, times `scale`, to rows `stride` apart.
    ///
    /// # Safety
    /// They must be writable by this thread alone.
    unsafe fn put(to: *mut f32, stride: usize, block: &[f32], [rows, columns]: [usize; 2], scale: f32, add: bool) {
        for (row, sums) in block.chunks_exact(32).enumerate().take(rows) {
            // SAFETY: the caller's promise.
            let to = unsafe { std::slice::from_raw_parts_mut(to.add(row * stride), columns) };
            match (<&mut [f32; 32]>::try_from(&mut *to), add) {
                (Ok(to), true) => (0..32).for_each(|i| to[i] += scale * sums[i]),
                (Ok(to), false) => (0..32).for_each(|i| to[i] = scale * sums[i]),
                (Err(_), true) => to.iter_mut().zip(sums).for_each(|(to, sum)| *to += scale * sum),
                (Err(_), false) => to.iter_mut().zip(sums).for_each(|(to, sum)| *to = scale * sum),
            }
        }
    }
}

fn by_the_crate(c: MatMut<'_>, into: Into, scale: f32, a: Mat<'_>, b: Mat<'_>, threads: Threads) {
    let parallelism = match threads {
        Threads::All => Parallelism::Rayon(0),
        Threads::One => Parallelism::None,
    };
    let (add, alpha) = (into == Into::Add, if into == Into::Add { 1.0 } else { 0.0 });
    // SAFETY: the constructors of Mat and MatMut checked that rows, columns and strides stay inside the slices, `c` is
    // borrowed exclusively, and its rows do not overlap because its row stride is at least its number of columns or it
    // has one row.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.data.as_mut_ptr(),
            1,
            c.row_stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            alpha,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_equal_f64_sums_in_every_layout() {
        let fill = |n: usize, s: usize| (0..n).map(|i| ((i * s + 3) % 17) as f32 / 8.0 - 1.0).collect::<Vec<_>>();
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
        for shape in [[64, 96, 128], [70, 50, 190], [33, 65, 1100], [40, 48, 2500], [65, 2100, 40]] {
            for transposed in [[false, false], [false, true], [true, false], [true, true]] {
                let [ours, plain] = errors(shape, transposed);
                assert!(ours <= 1.05 * plain, "{shape:?} {transposed:?}: {ours:e} against {plain:e}");
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
