//! The hardware of a run in words and numbers.

use crate::device::bf16_unit::Bf16Unit;
use crate::device::info::CpuInfo;
use crate::device::{Device, peak};
use crate::train::config::Precision;

/// A device as a person knows it.
pub fn device_words(device: Device) -> String {
    match device.gpu() {
        Ok(Some(gpu)) => gpu.driver().facts().name.clone(),
        _ => format!("{}, {} threads", CpuInfo::of_this_machine().model, rayon::current_num_threads()),
    }
}

/// What is to be said about a precision that the CPU at hand is not made for.
pub fn slow_on_this_cpu(precision: Precision) -> Option<&'static str> {
    (precision == Precision::Bf16 && Bf16Unit::of_this_machine().is_none()).then_some(
        "this CPU has neither AMX-BF16 nor AVX512-BF16: bf16 is computed by converting to fp32, and is slower than \"fp32\"",
    )
}

/// What a device can do at most in a precision, in FLOP/s, where its data sheet is known.
pub fn peak_flops(device: Device, precision: Precision) -> Option<f64> {
    let gpu = device.gpu().ok().flatten()?;
    let peaks = peak::of(&gpu.driver().facts().name)?;
    Some(match precision {
        Precision::Fp32 => peaks.fp32,
        Precision::Tf32 => peaks.tf32,
        Precision::Bf16 | Precision::Fp16 => peaks.bf16,
    })
}
