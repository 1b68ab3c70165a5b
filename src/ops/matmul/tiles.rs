//! Which products are made in tiles, and what becomes of their sums.

use half::bf16;

use super::pack::{Lines, Packed};
use super::tiled::{self, Place};
use super::units::Block;
use super::{Finish, Into, Mat, MatMut, Threads};
use crate::device::bf16_unit::Bf16Unit;
use crate::ops::element::Element;
use crate::ops::simd;
use crate::parallel::Parts;
use crate::tensor::DType;

/// What multiplies matrices of such elements and of a shape [m, n, k] in tiles, if anything should. A function of the
/// shape and the machine alone, because it decides bits.
pub fn unit<A: Element>(shape: [usize; 3]) -> Option<Bf16Unit> {
    let unit = Bf16Unit::of_this_machine()?;
    if shape.contains(&0) {
        return None;
    }
    match A::DTYPE {
        DType::BF16 => Some(unit),
        // Six products for one pay in AMX alone, and where packing is not most of the work.
        DType::F32 => {
            let large = shape.iter().all(|&extent| extent >= 32) && shape.iter().product::<usize>() > 1 << 20;
            (unit == Bf16Unit::Amx && large).then_some(unit)
        }
        _ => None,
    }
}

/// Whether sums over `k` can go into a result without waiting elsewhere for the rest of k.
pub fn at_once<A: Element, C: Element>(k: usize) -> bool {
    C::DTYPE == DType::F32 || k <= tiled::stretch(parts::<A>())
}

fn parts<A: Element>() -> usize {
    if A::DTYPE == DType::F32 { f32::PARTS } else { bf16::PARTS }
}

/// See [`super::gemm`] and [`super::gemm_bias`]; [`unit`] must have said so, and [`at_once`] be true.
pub fn multiply<A: Element, C: Element>(
    unit: Bf16Unit,
    c: MatMut<'_, C>,
    finish: Finish<'_, A>,
    a: Mat<'_, A>,
    b: Mat<'_, A>,
    threads: Threads,
) {
    let shape = [c.rows, c.cols, a.cols];
    let (out, stride) = (Parts::new(c.data), c.row_stride);
    let take = |block: &Block, place: Place| {
        let to = out.at(place.row * stride + place.column);
        let bias = if place.last { finish.bias } else { None };
        let target = Target {
            stride,
            extent: [place.rows, place.columns],
            scale: finish.scale,
            add: finish.into == Into::Add || !place.first,
        };
        // SAFETY: the block is inside `c`, whose constructor checked its rows and columns; `tiled::multiply` gives every block of a
        // stretch of k to one task, and ends a stretch before it begins the next.
        unsafe { put(to, &block.0, target, bias.map(|bias| &bias[place.column..])) };
    };
    let b = b.t();
    // SAFETY: the constructors of Mat checked that the matrices are inside their slices, and one of a matrix's strides is 1. The
    // casts are of elements to themselves.
    unsafe {
        if A::DTYPE == DType::F32 {
            tiled::multiply::<f32>(unit, shape, lines(a), lines(b), threads, take);
        } else {
            tiled::multiply::<bf16>(unit, shape, lines(a), lines(b), threads, take);
        }
    }
}

fn lines<A: Element, E>(m: Mat<'_, A>) -> Lines<E> {
    Lines { data: m.data.as_ptr().cast(), line: m.row_stride, k: m.col_stride }
}

/// How a block goes into the result.
#[derive(Clone, Copy)]
struct Target {
    stride: usize,
    /// Rows and columns of the block that are the result's.
    extent: [usize; 2],
    scale: f32,
    /// Whether what is there stays as a summand.
    add: bool,
}

simd! {
    /// Writes a block of 32 x 32 sums.
    ///
    /// # Safety
    /// The rows of the target must be writable by this thread alone.
    unsafe fn put<A: Element, C: Element>(to: *mut C, block: &[f32], target: Target, bias: Option<&[A]>) {
        let Target { stride, extent: [rows, columns], scale, add } = target;
        for (row, sums) in block.chunks_exact(32).enumerate().take(rows) {
            // SAFETY: the caller's promise: the first `rows` rows of `columns` elements are this thread's.
            let to = unsafe { std::slice::from_raw_parts_mut(to.add(row * stride), columns) };
            // Whole rows have a length that the compiler knows.
            match (<&mut [C; 32]>::try_from(&mut *to), add, bias) {
                (Ok(to), true, None) => (0..32).for_each(|i| to[i] = C::store(to[i].load() + scale * sums[i])),
                (Ok(to), false, None) => (0..32).for_each(|i| to[i] = C::store(scale * sums[i])),
                (Ok(to), false, Some(bias)) => {
                    let bias = &bias[..32];
                    (0..32).for_each(|i| to[i] = C::store(scale * sums[i] + bias[i].load()));
                }
                _ => {
                    for (i, (to, sum)) in to.iter_mut().zip(sums).enumerate() {
                        let old = if add { to.load() } else { 0.0 };
                        *to = C::store(old + scale * sum + bias.map_or(0.0, |bias| bias[i].load()));
                    }
                }
            }
        }
    }
}
