//! Number formats as the command line writes them. The types are the library's, which knows nothing of command lines.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::decode::{CacheFormat, WeightFormat};
use crate::train::config::Precision;

impl ValueEnum for WeightFormat {
    fn value_variants<'a>() -> &'a [WeightFormat] {
        &[WeightFormat::Fp32, WeightFormat::Bf16, WeightFormat::Fp16, WeightFormat::Q8_0, WeightFormat::Q4_0]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            WeightFormat::Fp32 => "32-bit floats",
            WeightFormat::Bf16 => "bfloat16; activations, products and sums are fp32",
            WeightFormat::Fp16 => "IEEE half precision; activations, products and sums are fp32",
            WeightFormat::Q8_0 => {
                "ggml's `q8_0`: 8-bit numbers with an fp16 scale for each block of 32. Activations are rounded to 8 bits as well"
            }
            WeightFormat::Q4_0 => {
                "ggml's `q4_0`: 4-bit numbers with an fp16 scale for each block of 32; activations as for `q8_0`"
            }
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

impl ValueEnum for CacheFormat {
    fn value_variants<'a>() -> &'a [CacheFormat] {
        &[CacheFormat::Fp32, CacheFormat::Bf16, CacheFormat::Fp16, CacheFormat::Int8]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            CacheFormat::Fp32 => "32-bit floats",
            CacheFormat::Bf16 => "bfloat16",
            CacheFormat::Fp16 => "IEEE half precision",
            CacheFormat::Int8 => "8-bit numbers with an fp32 scale for each head of each token",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

impl ValueEnum for Precision {
    fn value_variants<'a>() -> &'a [Precision] {
        &[Precision::Fp32, Precision::Tf32, Precision::Bf16, Precision::Fp16]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Precision::Fp32 => "32-bit floats throughout",
            Precision::Tf32 => {
                "32-bit floats whose products are rounded to 10 bits of mantissa (NVIDIA GPUs from Ampere on)"
            }
            Precision::Bf16 => "bfloat16: the range of fp32, 7 bits of mantissa",
            Precision::Fp16 => "IEEE half precision, with loss scaling",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}
