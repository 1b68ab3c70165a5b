//! Element types and conversion between them.

use half::{bf16, f16};

use crate::error::{Error, Result};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// bfloat16: the upper half of an f32.
    BF16,
    /// IEEE half precision.
    F16,
    /// Unsigned 32-bit integers: token ids.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::BF16 | DType::F16 => 2,
        }
    }

    /// The word that ends the names of kernels for this type.
    pub fn suffix(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::U32 => "u32",
        }
    }
}

/// Converts between floating dtypes, through f32, rounding to nearest even. The buffers have as many elements each.
pub(crate) fn convert(from: &[u8], from_dtype: DType, to: &mut [u8], to_dtype: DType) -> Result<()> {
    let values: Vec<f32> = match from_dtype {
        DType::F32 => bytemuck::cast_slice(from).to_vec(),
        DType::BF16 => bytemuck::cast_slice::<u8, bf16>(from).iter().map(|value| value.to_f32()).collect(),
        DType::F16 => bytemuck::cast_slice::<u8, f16>(from).iter().map(|value| value.to_f32()).collect(),
        DType::U32 => return Err(Error::Training(format!("token ids cannot be converted to {to_dtype:?}"))),
    };
    match to_dtype {
        DType::F32 => bytemuck::cast_slice_mut(to).copy_from_slice(&values),
        DType::BF16 => {
            let out = bytemuck::cast_slice_mut::<u8, bf16>(to);
            out.iter_mut().zip(&values).for_each(|(out, &value)| *out = bf16::from_f32(value));
        }
        DType::F16 => {
            let out = bytemuck::cast_slice_mut::<u8, f16>(to);
            out.iter_mut().zip(&values).for_each(|(out, &value)| *out = f16::from_f32(value));
        }
        DType::U32 => return Err(Error::Training(format!("{from_dtype:?} values cannot become token ids"))),
    }
    Ok(())
}
