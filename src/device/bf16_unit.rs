//! What this CPU has to multiply bf16 with, found at run time.

use std::sync::OnceLock;

/// Hardware that multiplies bf16 and adds up in fp32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Unit {
    /// AMX-BF16: tiles of 16 x 32 against 32 x 16 (Intel, from Sapphire Rapids on).
    Amx,
    /// AVX512-BF16: pairs of products in vectors of 16 sums (AMD from Zen 4 on, Intel from Cooper Lake on).
    Avx512,
}

impl Bf16Unit {
    /// The fastest unit of this machine, if it has one. Asked for the first time, it also asks the system for leave to use
    /// AMX, as Linux wants it; all threads of the process have it then.
    pub fn of_this_machine() -> Option<Bf16Unit> {
        static FOUND: OnceLock<Option<Bf16Unit>> = OnceLock::new();
        *FOUND.get_or_init(find)
    }

    /// All units of this machine, fastest first: for tests and measurements.
    pub fn all() -> Vec<Bf16Unit> {
        match Bf16Unit::of_this_machine() {
            // Whoever has AMX has AVX512-BF16: the tiles are packed by it.
            Some(Bf16Unit::Amx) => vec![Bf16Unit::Amx, Bf16Unit::Avx512],
            found => found.into_iter().collect(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn find() -> Option<Bf16Unit> {
    let vectors = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16");
    match vectors {
        true if amx() => Some(Bf16Unit::Amx),
        true => Some(Bf16Unit::Avx512),
        false => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn find() -> Option<Bf16Unit> {
    None
}

/// Whether the CPU has AMX with bf16, the system saves its registers, and lets this process use them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    /// `ARCH_REQ_XCOMP_PERM` and `XFEATURE_XTILEDATA` of Linux.
    const REQUEST: libc::c_ulong = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    #[target_feature(enable = "xsave")]
    fn saved_by_the_system() -> u64 {
        // SAFETY: the caller has seen OSXSAVE.
        unsafe { _xgetbv(0) }
    }
    if __cpuid(0).eax < 7 || !is_x86_feature_detected!("xsave") {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    let (bf16, tiles) = (features >> 22 & 1 == 1, features >> 24 & 1 == 1);
    // SAFETY: XSAVE is there (asked above), and `is_x86_feature_detected` says so only where the system has turned it on.
    let saved = unsafe { saved_by_the_system() } >> 17 & 3 == 3;
    // SAFETY: a system call that takes two numbers and touches no memory of ours.
    bf16 && tiles && saved && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) } == 0
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx() -> bool {
    false
}
