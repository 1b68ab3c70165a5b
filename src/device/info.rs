//! What this machine is: the facts that decide bits ("hardware kind") and those a user wants to see.

use serde::Serialize;

/// The CPU as far as results depend on it, and a little more for people.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct CpuInfo {
    /// The model name that the system reports.
    pub model: String,
    /// Logical cores this process may use.
    pub cores: usize,
    /// Vector extensions that the numerics can use, widest last.
    pub features: Vec<String>,
    /// Data cache sizes in KiB: level 1, 2, 3 (0 where unknown). The gemm crate's blocking follows them.
    pub cache_kib: [u64; 3],
    /// Total memory in bytes (0 where unknown).
    pub memory_bytes: u64,
}

impl CpuInfo {
    /// Reads the facts of this machine.
    pub fn of_this_machine() -> CpuInfo {
        CpuInfo {
            model: model_name(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            features: features(),
            cache_kib: cache_sizes(),
            memory_bytes: meminfo("MemTotal:"),
        }
    }

    /// The hardware kind: machines of one kind give the same bits.
    pub fn kind(&self) -> String {
        let [l1, l2, l3] = self.cache_kib;
        format!("cpu {} cache {l1}/{l2}/{l3} KiB", self.features.join("+"))
    }
}

/// Whether the CPU multiplies matrices of bf16 faster than of f32: by AMX-BF16 or AVX512-BF16.
#[cfg(target_arch = "x86_64")]
pub fn has_bf16_products() -> bool {
    // AMX_BF16 is bit 22 of EDX of leaf 7 (Intel's manual, volume 2A, CPUID); the standard library does not detect it yet.
    let most = std::arch::x86_64::__cpuid(0).eax;
    let amx = most >= 7 && std::arch::x86_64::__cpuid_count(7, 0).edx & (1 << 22) != 0;
    amx || std::arch::is_x86_feature_detected!("avx512bf16")
}

/// Whether the CPU multiplies matrices of bf16 faster than of f32.
#[cfg(not(target_arch = "x86_64"))]
pub fn has_bf16_products() -> bool {
    false
}

/// Memory that can be had without swapping, in bytes (0 where unknown): the system's figure, or the control group's limit.
pub fn available_memory() -> u64 {
    let system = meminfo("MemAvailable:");
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    match limit {
        Some(limit) if limit < system => limit,
        _ => system,
    }
}

/// The largest resident size of this process so far, in bytes (0 where unknown).
pub fn peak_resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    field_kib(&status, "VmHWM:") * 1024
}

fn meminfo(name: &str) -> u64 {
    field_kib(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default(), name) * 1024
}

fn field_kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}

fn model_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_string(), |(_, name)| name.trim().to_string())
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<String> {
    let mut found = vec!["x86-64".to_string()];
    let known = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
    ];
    found.extend(known.iter().filter(|(_, there)| *there).map(|(name, _)| name.to_string()));
    found
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<String> {
    vec![std::env::consts::ARCH.to_string()]
}

fn cache_sizes() -> [u64; 3] {
    let mut sizes = [0; 3];
    for index in 0..8 {
        let read = |file: &str| {
            std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{file}"))
                .unwrap_or_default()
        };
        if read("type").trim() == "Instruction" {
            continue;
        }
        let level: usize = read("level").trim().parse().unwrap_or(0);
        let size = read("size");
        let size = size.trim();
        let kib = match size.strip_suffix('M') {
            Some(mib) => mib.parse::<u64>().unwrap_or(0) * 1024,
            None => size.trim_end_matches('K').parse().unwrap_or(0),
        };
        if (1..=3).contains(&level) {
            sizes[level - 1] = kib;
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc_fields() {
        assert_eq!(field_kib("MemTotal:       24576 kB\nMemAvailable:   100 kB\n", "MemAvailable:"), 100);
        assert_eq!(field_kib("", "MemTotal:"), 0);
        assert!(CpuInfo::of_this_machine().cores >= 1);
    }
}
