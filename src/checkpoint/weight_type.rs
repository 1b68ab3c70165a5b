//! The dtypes that weights are stored in, and how float32 values become their bytes.
//!
//! Training keeps float32; the narrow types are for files that are given away. Rounding is to nearest, ties to even.

use crate::error::{Error, Result};
use half::{bf16, f16};

/// How a weight stands in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightType {
    /// IEEE single precision: exactly what was trained.
    #[default]
    F32,
    /// bfloat16: the range of float32 with 8 bits of precision.
    Bf16,
    /// IEEE half precision: 11 bits of precision, and nothing beyond 65504.
    F16,
}

impl WeightType {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            WeightType::F32 => 4,
            WeightType::Bf16 | WeightType::F16 => 2,
        }
    }

    /// The name in a safetensors header.
    pub fn safetensors_name(self) -> &'static str {
        match self {
            WeightType::F32 => "F32",
            WeightType::Bf16 => "BF16",
            WeightType::F16 => "F16",
        }
    }

    /// The name under "dtype" in config.json.
    pub fn torch_name(self) -> &'static str {
        match self {
            WeightType::F32 => "float32",
            WeightType::Bf16 => "bfloat16",
            WeightType::F16 => "float16",
        }
    }

    /// Appends the little-endian bytes of `values` to `out`.
    ///
    /// # Errors
    /// `Usage` if a finite value has no finite counterpart: float16 ends at 65504. `what` names the values there.
    pub fn encode(self, values: &[f32], what: &str, out: &mut Vec<u8>) -> Result<()> {
        out.reserve(values.len() * self.size());
        match self {
            WeightType::F32 => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
            WeightType::Bf16 => values.iter().for_each(|&value| out.extend(bf16::from_f32(value).to_le_bytes())),
            WeightType::F16 => {
                for &value in values {
                    let half = f16::from_f32(value);
                    if half.is_infinite() && value.is_finite() {
                        return Err(Error::usage(format!(
                            "{what} holds {value}, and float16 ends at 65504; choose bf16 or f32"
                        )));
                    }
                    out.extend(half.to_le_bytes());
                }
            }
        }
        Ok(())
    }
}
