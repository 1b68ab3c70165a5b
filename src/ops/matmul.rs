//! Matrix products on the CPU, by the gemm crate: `C = A B` or `C += A B` over strided matrices in fp32.
//!
//! The gemm crate gives the same bits whatever the number of threads (its split of rows and columns does not change the
//! order of the sums), but not the same for other shapes: one to three rows go another way than more.

use gemm::Parallelism;

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
