//! Matrix products on the CPU, by the gemm crate: `C = A B` or `C += A B` over strided matrices in fp32. Operands in bf16 are
//! widened first: their products are exact in fp32, sums are in fp32, and a result in bf16 is rounded once.
//!
//! The gemm crate gives the same bits whatever the number of threads (its split of rows and columns does not change the
//! order of the sums), but not the same for other shapes: one to three rows go another way than more.

use gemm::Parallelism;

use crate::ops::element::Element;
use crate::tensor::element::{as_f32, as_f32_mut, convert_slice};

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
    /// If it reaches past the end of `data`.
    pub fn strided(data: &'a mut [E], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(), "a matrix past its data");
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

/// `c = scale * a b` or `c += scale * a b`. Sums are in fp32; a `c` in bf16 is rounded once.
///
/// # Panics
/// If the shapes do not fit, or for `Into::Add` to a `c` in bf16.
pub fn gemm<A: Element, C: Element>(
    c: MatMut<'_, C>,
    into: Into,
    scale: f32,
    a: Mat<'_, A>,
    b: Mat<'_, A>,
    threads: Threads,
) {
    assert_eq!((c.rows, c.cols, a.cols), (a.rows, b.cols, b.rows), "shapes of a matrix product");
    let (mut wide_a, mut wide_b) = (Vec::new(), Vec::new());
    let (a, b) = (widen(a, &mut wide_a), widen(b, &mut wide_b));
    let MatMut { data, rows, cols, row_stride } = c;
    if let Some(data) = as_f32_mut(data) {
        return gemm_f32(MatMut { data, rows, cols, row_stride }, into, scale, a, b, threads);
    }
    assert_eq!(into, Into::Set, "a sum in bf16 would be rounded at every product");
    let mut wide = vec![0.0; rows * cols];
    gemm_f32(MatMut::new(&mut wide, rows, cols), into, scale, a, b, threads);
    for (to, from) in data.chunks_mut(row_stride.max(1)).zip(wide.chunks_exact(cols.max(1))) {
        convert_slice(&mut to[..cols], from);
    }
}

/// The matrix in fp32: itself, or a copy in `buffer`.
fn widen<'m, E: Element>(m: Mat<'m, E>, buffer: &'m mut Vec<f32>) -> Mat<'m> {
    let Mat { data, rows, cols, row_stride, col_stride } = m;
    if let Some(data) = as_f32(data) {
        return Mat { data, rows, cols, row_stride, col_stride };
    }
    // Consecutive elements are those of a row, or of a column of what was transposed.
    let (lines, len, stride) = if col_stride == 1 { (rows, cols, row_stride) } else { (cols, rows, col_stride) };
    buffer.resize(lines * len, 0.0);
    for (line, to) in buffer.chunks_exact_mut(len.max(1)).enumerate() {
        convert_slice(to, &data[line * stride..][..len]);
    }
    if col_stride == 1 { Mat::new(buffer, rows, cols) } else { Mat::new(buffer, cols, rows).t() }
}

fn gemm_f32(c: MatMut<'_>, into: Into, scale: f32, a: Mat<'_>, b: Mat<'_>, threads: Threads) {
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
    use half::bf16;

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

    #[test]
    fn operands_in_bf16_are_exact_and_results_rounded_once() {
        let fill = |n: usize, s: usize| {
            (0..n).map(|i| bf16::from_f32(((i * s + 3) % 17) as f32 / 8.0 - 1.0)).collect::<Vec<_>>()
        };
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
