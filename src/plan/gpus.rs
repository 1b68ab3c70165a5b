//! The GPUs that a plan can be made for: memory, bandwidth and links from their makers' data sheets, and the shares of the
//! peaks that training is assumed to reach.
//!
//! Peaks are those of [`crate::device::peak`]. `docs/plan.md` names the sources.

use serde::Serialize;

use crate::config::nearest;
use crate::device::peak::{self, Peaks};
use crate::error::{Error, Result};

/// What joins the GPUs of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// NVLink through a switch: every pair at full rate.
    Nvlink,
    /// PCI Express, shared on its way through the host.
    Pcie,
}

/// Parts of the peaks that are assumed to be reached. Not from a data sheet: see `docs/plan.md` for where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shares {
    /// Matrix products, of the peak of their precision.
    pub gemm: f64,
    /// Attention, of the same peak.
    pub attention: f64,
    /// Kernels bound by memory, of the bandwidth.
    pub bandwidth: f64,
}

/// GA100: matrix products as in published runs of llm.c; attention 85 of 312 TFLOP/s at heads of 64 and 1024 tokens.
const AMPERE: Shares = Shares { gemm: 0.75, attention: 0.27, bandwidth: 0.85 };
/// The same with less power: between published runs of llm.c (two thirds of the SXM card) and PyTorch (five sixths).
const AMPERE_PCIE: Shares = Shares { gemm: 0.55, ..AMPERE };
/// Hopper: clocks fall under load; attention by Ampere's instructions reaches little of this peak.
const HOPPER: Shares = Shares { gemm: 0.60, attention: 0.14, bandwidth: 0.85 };
/// A guess: nothing published was found for these shapes.
const BLACKWELL: Shares = Shares { gemm: 0.55, attention: 0.07, bandwidth: 0.85 };
/// Cards whose peak is limited by f32 sums, not by power.
const CONSUMER: Shares = Shares { gemm: 0.75, attention: 0.40, bandwidth: 0.85 };
/// Cards of 72 to 165 W, which cannot hold their clocks under load: a guess.
const LOW_POWER: Shares = Shares { gemm: 0.50, attention: 0.27, bandwidth: 0.85 };

/// A kind of GPU.
#[derive(Clone, Debug, Serialize)]
pub struct Gpu {
    /// As the command line names it.
    pub name: &'static str,
    /// As the driver names it, for the table of peaks.
    pub product: &'static str,
    /// Memory, in GiB as the driver counts it.
    pub memory_gib: f64,
    /// Memory bandwidth, in bytes per second.
    pub bandwidth: f64,
    /// What joins it to others in the machine.
    pub link: Link,
    /// Bytes per second that one GPU sends over that link, nominal, in one direction.
    pub link_bandwidth: f64,
    /// What is assumed to be reached.
    pub shares: Shares,
}

const NV: Link = Link::Nvlink;
const PCI: Link = Link::Pcie;

/// A row of the table: GiB, TB/s, link, GB/s in one direction.
const fn gpu(
    name: &'static str,
    product: &'static str,
    memory_gib: f64,
    bandwidth: f64,
    link: (Link, f64),
    shares: Shares,
) -> Gpu {
    let (link, link_bandwidth) = (link.0, link.1 * 1e9);
    Gpu { name, product, memory_gib, bandwidth: bandwidth * 1e12, link, link_bandwidth, shares }
}

/// All kinds, in the order in which they are listed.
pub const TABLE: &[Gpu] = &[
    gpu("a100-40", "NVIDIA A100-SXM4-40GB", 40.0, 1.555, (NV, 300.0), AMPERE),
    gpu("a100-80", "NVIDIA A100-SXM4-80GB", 80.0, 2.039, (NV, 300.0), AMPERE),
    gpu("a100-40-pcie", "NVIDIA A100-PCIE-40GB", 40.0, 1.555, (PCI, 31.5), AMPERE_PCIE),
    gpu("a100-80-pcie", "NVIDIA A100 80GB PCIe", 80.0, 1.935, (PCI, 31.5), AMPERE_PCIE),
    gpu("h100", "NVIDIA H100 80GB HBM3", 79.6, 3.35, (NV, 450.0), HOPPER),
    gpu("h100-pcie", "NVIDIA H100 PCIe", 79.6, 2.0, (PCI, 63.0), HOPPER),
    gpu("h200", "NVIDIA H200", 140.4, 4.8, (NV, 450.0), HOPPER),
    gpu("b200", "NVIDIA B200", 179.0, 8.0, (NV, 900.0), BLACKWELL),
    gpu("l4", "NVIDIA L4", 22.5, 0.300, (PCI, 31.5), LOW_POWER),
    gpu("l40s", "NVIDIA L40S", 45.0, 0.864, (PCI, 31.5), CONSUMER),
    gpu("a10", "NVIDIA A10", 22.5, 0.600, (PCI, 31.5), LOW_POWER),
    gpu("a30", "NVIDIA A30", 24.0, 0.933, (PCI, 31.5), LOW_POWER),
    gpu("a40", "NVIDIA A40", 45.0, 0.696, (PCI, 31.5), CONSUMER),
    gpu("rtx4090", "NVIDIA GeForce RTX 4090", 24.0, 1.008, (PCI, 31.5), CONSUMER),
    gpu("rtx3090", "NVIDIA GeForce RTX 3090", 24.0, 0.936, (PCI, 31.5), CONSUMER),
];

impl Gpu {
    /// Its peaks.
    ///
    /// # Errors
    /// If the table of peaks does not know the product: never, for the kinds of [`TABLE`] (a test looks at each).
    pub fn peaks(&self) -> Result<Peaks> {
        peak::of(self.product).ok_or_else(|| Error::Device(format!("no peaks are known of {}", self.product)))
    }

    /// Bytes of memory.
    pub fn memory(&self) -> u64 {
        (self.memory_gib * (1u64 << 30) as f64) as u64
    }
}

/// The GPU of this name, whatever its case, blanks and underscores.
///
/// # Errors
/// `Usage`, with the nearest name and all names.
pub fn find(name: &str) -> Result<&'static Gpu> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_', ' '], "");
    if let Some(gpu) = TABLE.iter().find(|gpu| plain(gpu.name) == plain(name)) {
        return Ok(gpu);
    }
    // A name such as "a100" stands for several; what it begins is nearer than what it resembles.
    let begins =
        TABLE.iter().map(|gpu| gpu.name).find(|known| !name.is_empty() && plain(known).starts_with(&plain(name)));
    let near = begins.or_else(|| nearest(&name.to_lowercase(), TABLE.iter().map(|gpu| gpu.name)));
    let hint = near.map(|near| format!("did you mean {near:?}? ")).unwrap_or_default();
    let names: Vec<&str> = TABLE.iter().map(|gpu| gpu.name).collect();
    Err(Error::usage(format!("--gpu {name:?} is not a GPU that plans are made for; {hint}known: {}", names.join(", "))))
}
