//! What a benchmark needs to know of products: which unit makes them, and how fast that is at most.

use crate::ops::element::Element;

/// Products of bf16 that one product of elements `A` and of a shape [m, n, k] becomes in the unit that multiplies bf16; None
/// where fused multiply-adds in fp32 make it.
pub fn unit_products<A: Element>(shape: [usize; 3]) -> Option<u32> {
    #[cfg(target_arch = "x86_64")]
    if super::tiles::unit::<A>(shape).is_some() {
        // The six of the nine products of three parts that reach into the result.
        return Some(if A::DTYPE == crate::tensor::DType::F32 { 6 } else { 1 });
    }
    let _ = shape;
    None
}

/// Multiplies panels that the first-level cache holds by the unit that multiplies bf16, `times` times on the calling thread:
/// nobody can be faster with it. Gives the floating-point operations done; None on a machine without such a unit.
pub fn run_unit(times: usize) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        use super::pack::{LINES, STEP, TILE};
        use super::units::{Block, Ready};
        /// Two panels of 16 KiB.
        const STEPS: usize = 8;
        #[repr(C, align(64))]
        struct Panel([u16; 2 * TILE * STEPS]);
        let unit = crate::device::bf16_unit::Bf16Unit::of_this_machine()?;
        // Ones in bf16, as no denormal number slows anything down.
        let (a, b) = (Panel([0x3f80; 2 * TILE * STEPS]), Panel([0x3f80; 2 * TILE * STEPS]));
        let mut block = Block([0.0; 1024]);
        // SAFETY: the machine has the unit.
        let ready = unsafe { Ready::new(unit) };
        for _ in 0..times {
            let panels = std::hint::black_box((a.0.as_ptr(), b.0.as_ptr()));
            // SAFETY: whole panels of one part, aligned.
            unsafe { ready.multiply(&mut block, panels, STEPS, 1) };
            std::hint::black_box(&block);
        }
        Some((2 * LINES * LINES * STEP * STEPS * times) as f64)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = times;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::bf16_unit::Bf16Unit;

    #[test]
    fn the_unit_runs_where_there_is_one() {
        let found = Bf16Unit::of_this_machine();
        assert_eq!(run_unit(3).is_some(), found.is_some());
        assert!(run_unit(3).is_none_or(|flops| flops == 2.0 * 32.0 * 32.0 * 256.0 * 3.0));
        let large = [512, 512, 512];
        assert_eq!(unit_products::<half::bf16>(large), found.map(|_| 1));
        assert_eq!(unit_products::<f32>(large), (found == Some(Bf16Unit::Amx)).then_some(6));
        assert_eq!(unit_products::<f32>([4, 4, 4]), None);
    }
}
