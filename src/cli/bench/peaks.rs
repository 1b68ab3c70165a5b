//! What this CPU can do at most, measured: the ceilings next to which `taper bench ops` sets every operator.

use std::hint::black_box;
use std::time::Duration;

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::cli::bench::rates::{best_rate, copy_gbs, gemm_gflops};
use crate::device::bf16_unit::Bf16Unit;
use crate::ops::matmul::peak;

/// Rates of all threads together: bytes per second, and floating-point operations per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ceilings {
    /// Copying memory, bytes read and written counted.
    pub copy: f64,
    /// Fused multiply-adds in fp32 that stay in registers.
    pub fma: f64,
    /// Products of bf16 that stay in the first-level cache, in the unit that this CPU has for them.
    pub unit: Option<f64>,
    /// A large product in fp32, by the engine.
    pub product: f64,
}

impl Ceilings {
    /// Measures them, about `patience` each.
    pub fn measure(patience: Duration) -> Ceilings {
        Ceilings {
            copy: copy_gbs(patience) * 1e9,
            fma: rate(patience, &|times| multiply_add(times)),
            unit: Bf16Unit::of_this_machine().map(|_| rate(patience, &|times| peak::run_unit(times).unwrap_or(0.0))),
            product: gemm_gflops(patience) * 1e9,
        }
    }

    /// Operations per second that a product can reach which the unit for bf16 makes of so many products, or which is made of
    /// fused multiply-adds.
    pub fn of_product(&self, unit_products: Option<u32>) -> f64 {
        match (self.unit, unit_products) {
            (Some(unit), Some(products)) => unit / f64::from(products),
            _ => self.fma,
        }
    }

    /// As JSON has them.
    pub fn json(&self) -> Value {
        json!({
            "copy_gb_per_s": self.copy / 1e9,
            "fma_gflop_per_s": self.fma / 1e9,
            "bf16_unit": unit_name(),
            "bf16_unit_gflop_per_s": self.unit.map(|unit| unit / 1e9),
            "product_gflop_per_s": self.product / 1e9,
        })
    }

    /// For people, in a line.
    pub fn words(&self) -> String {
        let unit = self.unit.zip(unit_name()).map_or_else(String::new, |(unit, name)| {
            format!(", {name} {:.0} GFLOP/s (a product in fp32 takes six there)", unit / 1e9)
        });
        format!(
            "copy {:.1} GB/s, fused multiply-adds {:.0} GFLOP/s{unit}; a large product in fp32 reached {:.0} GFLOP/s",
            self.copy / 1e9,
            self.fma / 1e9,
            self.product / 1e9
        )
    }
}

fn unit_name() -> Option<&'static str> {
    Bf16Unit::of_this_machine().map(|unit| match unit {
        Bf16Unit::Amx => "AMX-BF16",
        Bf16Unit::Avx512 => "AVX512-BF16",
    })
}

/// Operations per second of `work`, which gives how many it did, on all threads at once.
fn rate(patience: Duration, work: &(dyn Fn(usize) -> f64 + Sync)) -> f64 {
    /// Long enough that waking the threads is nothing next to it.
    const TIMES: usize = 2000;
    let threads = rayon::current_num_threads();
    let once = work(TIMES);
    let amount = once * threads as f64;
    let all = || (0..threads).into_par_iter().with_max_len(1).for_each(|_| _ = black_box(work(TIMES)));
    best_rate(amount, patience, all) * 1e9
}

/// Multiply-adds that one pass of a loop makes in each sum.
const PASS: usize = 64;

/// `times` x [`PASS`] fused multiply-adds in every element of as many registers as keep the unit busy; gives the operations.
fn multiply_add(times: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: asked for just now.
            return unsafe { x86::avx512(times) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: asked for just now.
            return unsafe { x86::avx2(times) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: asked for just now.
        return unsafe { neon(times) };
    }
    portable(times)
}

/// The loop over vectors of `$lanes` elements in `$sums` registers.
macro_rules! registers {
    ($times:ident, $sums:literal x $lanes:literal, $set:path, $fma:expr) => {{
        let (factor, term) = ($set(black_box(0.999_f32)), $set(black_box(0.001_f32)));
        let mut sums = [$set(black_box(1.0_f32)); $sums];
        for _ in 0..$times * PASS {
            for sum in &mut sums {
                *sum = $fma(*sum, factor, term);
            }
        }
        black_box(sums);
        (2 * $lanes * $sums * PASS * $times) as f64
    }};
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_set1_ps};
    use std::hint::black_box;

    use super::PASS;

    #[target_feature(enable = "avx512f")]
    pub fn avx512(times: usize) -> f64 {
        registers!(times, 16 x 16, _mm512_set1_ps, |sum, factor, term| _mm512_fmadd_ps(sum, factor, term))
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(times: usize) -> f64 {
        registers!(times, 12 x 8, _mm256_set1_ps, |sum, factor, term| _mm256_fmadd_ps(sum, factor, term))
    }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn neon(times: usize) -> f64 {
    use std::arch::aarch64::{vdupq_n_f32, vfmaq_f32};
    registers!(times, 24 x 4, vdupq_n_f32, |sum, factor, term| vfmaq_f32(term, sum, factor))
}

/// Where there are no fused ones that we know: a multiplication and an addition.
fn portable(times: usize) -> f64 {
    let set = |value: f32| [value; 4];
    let multiply_add =
        |sum: [f32; 4], factor: [f32; 4], term: [f32; 4]| std::array::from_fn(|i| sum[i] * factor[i] + term[i]);
    registers!(times, 8 x 4, set, multiply_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_tell_the_operations_that_they_do() {
        for (flops, lanes) in [(multiply_add(3), 0), (portable(3), 32)] {
            assert!(flops > 0.0 && flops % (2 * PASS * 3) as f64 == 0.0, "{flops}");
            assert!(lanes == 0 || flops == (2 * PASS * 3 * lanes) as f64);
        }
    }

    #[test]
    fn a_product_of_many_in_the_unit_has_a_part_of_its_peak() {
        let ceilings = Ceilings { copy: 1.0, fma: 10.0, unit: Some(60.0), product: 5.0 };
        assert_eq!([Some(6), Some(1), None].map(|products| ceilings.of_product(products)), [10.0, 60.0, 10.0]);
        assert_eq!(Ceilings { unit: None, ..ceilings }.of_product(None), 10.0);
    }
}
