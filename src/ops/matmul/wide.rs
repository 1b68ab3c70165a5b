//! Matrix products by the gemm crate, which knows f32: operands in bf16 are widened (their products are exact in f32), and
//! results in bf16 rounded from its sums.

use gemm::Parallelism;

use super::{Finish, Into, Mat, MatMut, Threads, through_sums};
use crate::ops::element::Element;
use crate::tensor::element::{as_f32, as_f32_mut, convert_slice};

/// About this many f32 sums wait to be rounded to bf16: 4 MiB, which the last cache holds. Many rows at once, because each
/// product reads all of the right operand.
const SUMS: usize = 1 << 20;

/// Rows of `cols` sums that make about [`SUMS`].
pub fn rows_at_a_time(cols: usize) -> usize {
    (SUMS / cols / 64 * 64).max(64)
}

/// See [`super::gemm`] and [`super::gemm_bias`].
pub fn multiply<A: Element, C: Element>(
    c: MatMut<'_, C>,
    finish: Finish<'_, A>,
    a: Mat<'_, A>,
    b: Mat<'_, A>,
    threads: Threads,
) {
    let mut wide_b = Vec::new();
    let b = widen(b, &mut wide_b);
    let product = |c: MatMut<'_>, into: Into, scale: f32, a: Mat<'_, A>| {
        let mut wide_a = Vec::new();
        gemm_f32(c, into, scale, widen(a, &mut wide_a), b, threads);
    };
    let MatMut { data, rows, cols, row_stride } = c;
    let Some(data) = as_f32_mut(data) else {
        let c = MatMut { data, rows, cols, row_stride };
        return through_sums(c, finish, a, threads, |sums, a| product(sums, Into::Set, 1.0, a));
    };
    let mut into = finish.into;
    if let Some(bias) = finish.bias {
        data.chunks_mut(row_stride.max(1)).take(rows).for_each(|row| convert_slice(&mut row[..cols], bias));
        into = Into::Add;
    }
    product(MatMut { data, rows, cols, row_stride }, into, finish.scale, a);
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
    // borrowed exclusively, and its rows do not overlap.
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
