//! Operators on the CPU over more than one element type: the choice of the type from a tensor's dtype, and the rounding of
//! matrix operands that were computed in `f32`.

pub use crate::tensor::Element;

use super::simd;
use crate::tensor::DType;

/// `on_cpu!(dtype, E => expression)`: the expression with `E` standing for the element type of a dtype of host memory.
/// fp16 is a dtype of GPUs and of files only: no config lets it come here.
macro_rules! on_cpu {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $element = f32;
                $body
            }
            $crate::tensor::DType::BF16 => {
                type $element = half::bf16;
                $body
            }
            other => panic!("operators on the CPU compute in f32 and bf16, not in {other:?}"),
        }
    };
}
pub(crate) use on_cpu;

/// Elements that fit where one `f32` stood.
pub const fn per_f32<E: Element>() -> usize {
    size_of::<f32>() / size_of::<E>()
}

/// Turns every value of `row` into the element of `f` of it, in place: element `i` of the row seen as `E` comes from
/// value `i`. With a narrow `E` the rest of the row is left as it is.
#[inline(always)]
pub fn narrow_row<E: Element>(row: &mut [f32], f: impl Fn(f32) -> f32) {
    const BLOCK: usize = 32;
    let whole = row.len() / BLOCK * BLOCK;
    for first in (0..whole).step_by(BLOCK) {
        // A block is read before its elements are written, which never reach past it.
        let values: [f32; BLOCK] = std::array::from_fn(|i| row[first + i]);
        let elements = &mut bytemuck::cast_slice_mut::<f32, E>(row)[first..first + BLOCK];
        for (element, value) in elements.iter_mut().zip(values) {
            *element = E::store(f(value));
        }
    }
    for i in whole..row.len() {
        let value = f(row[i]);
        bytemuck::cast_slice_mut::<f32, E>(row)[i] = E::store(value);
    }
}

/// Rounds the first `width` values of every row of `block`, rows `stride` apart, to elements, in place. The block seen
/// as `E` is then a matrix whose rows are `stride * per_f32::<E>()` apart.
pub fn narrow_block<E: Element>(block: &mut [f32], width: usize, stride: usize) {
    if E::DTYPE != DType::F32 {
        narrow_rows::<E>(block, width, stride);
    }
}

simd! {
    fn narrow_rows<E: Element>(block: &mut [f32], width: usize, stride: usize) {
        for row in block.chunks_mut(stride) {
            narrow_row::<E>(&mut row[..width], |x| x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn blocks_are_rounded_in_place() {
        let values: Vec<f32> = (0..3 * 80).map(|i| (i * 37 % 101) as f32 / 7.0 - 5.0).collect();
        let mut narrow = values.clone();
        narrow_block::<bf16>(&mut narrow, 71, 80);
        let elements: &[bf16] = bytemuck::cast_slice(&narrow);
        for row in 0..3 {
            for i in 0..71 {
                assert_eq!(
                    elements[row * 80 * per_f32::<bf16>() + i],
                    bf16::from_f32(values[row * 80 + i]),
                    "{row} {i}"
                );
            }
        }
        let mut same = values.clone();
        narrow_block::<f32>(&mut same, 71, 80);
        assert_eq!(same, values);
    }
}
