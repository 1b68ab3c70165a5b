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

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::tests::fill;
    use super::*;

    /// What a CPU without a unit for bf16 does, tested on every CPU.
    #[test]
    fn operands_in_bf16_are_widened_and_results_rounded_once() {
        let [m, n, k] = [70, 33, 40];
        let [a, b, bias]: [Vec<bf16>; 3] = [fill(m * k, 7), fill(n * k, 5), fill(n, 3)];
        let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, n, k).t());
        let exact = |i: usize, j: usize| -> f32 {
            (0..k).map(|l| a.data[i * k + l].to_f32() * b.data[j * k + l].to_f32()).sum::<f32>()
        };
        for threads in [Threads::All, Threads::One] {
            for (into, with_bias) in [(Into::Set, false), (Into::Add, false), (Into::Set, true)] {
                let finish = Finish { into, scale: 0.5, bias: with_bias.then_some(&bias[..]) };
                let finish = if with_bias { Finish { scale: 1.0, ..finish } } else { finish };
                let (mut wide, mut narrow) = (vec![1.5f32; m * n], vec![bf16::from_f32(1.5); m * (n + 2)]);
                multiply(MatMut::new(&mut wide, m, n), finish, a, b, threads);
                multiply(MatMut::strided(&mut narrow, m, n, n + 2), finish, a, b, threads);
                for i in 0..m {
                    for j in 0..n {
                        let old = if into == Into::Add { 1.5 } else { 0.0 };
                        let truth = old + finish.scale * exact(i, j) + if with_bias { bias[j].to_f32() } else { 0.0 };
                        // Sums of so few digits are exact.
                        assert_eq!(wide[i * n + j], truth, "{into:?} {with_bias} {i} {j}");
                        assert_eq!(narrow[i * (n + 2) + j], bf16::from_f32(truth), "{into:?} {with_bias} {i} {j}");
                    }
                    assert!(i + 1 == m || narrow[i * (n + 2) + n..][..2].iter().all(|gap| gap.to_f32() == 1.5));
                }
            }
        }
    }
}
