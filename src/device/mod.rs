//! Where numbers live and where work runs.
//!
//! Everything CUDA is loaded at run time: the same binary starts on a machine without a GPU. A GPU is reached through one
//! interface ([`launch::Driver`]) that the CUDA driver and, in tests, an emulator stand behind.

pub mod bf16_unit;
pub mod cuda;
mod dtype;
pub mod gpu;
pub mod info;
pub mod kernels;
pub mod launch;
pub mod peak;
pub mod pool;
pub mod products;

pub use dtype::DType;
pub(crate) use dtype::convert;
pub use gpu::Gpu;

use crate::error::{Error, Result};

/// A device that holds tensors and runs operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Host memory, all cores (rayon).
    Cpu,
    /// The CUDA GPU of this ordinal, which has been opened.
    Cuda(usize),
}

impl Device {
    /// Reads `cpu`, `cuda`, `cuda:N` or `auto` (the first usable GPU, else the CPU), and opens the GPU.
    ///
    /// # Errors
    /// A `Usage` error for any other word; a `Device` error where CUDA is asked for and cannot be had.
    pub fn parse(text: &str) -> Result<Device> {
        match text {
            "cpu" => Ok(Device::Cpu),
            "auto" => Ok(gpu::open(0).map_or(Device::Cpu, Gpu::device)),
            "cuda" => gpu::open(0).map(Gpu::device),
            _ => match text.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => gpu::open(ordinal).map(Gpu::device),
                None => Err(Error::usage(format!("unknown device \"{text}\"; choose cpu, cuda, cuda:N or auto"))),
            },
        }
    }

    /// The hardware kind: what decides bits on this device. Machines of one kind give the same.
    ///
    /// # Errors
    /// A `Device` error if it cannot be opened.
    pub fn hardware_kind(self) -> Result<String> {
        Ok(match self.gpu()? {
            None => info::CpuInfo::of_this_machine().kind(),
            Some(gpu) => gpu.driver().facts().kind(),
        })
    }

    /// The GPU of a CUDA device; None for the CPU.
    ///
    /// # Errors
    /// A `Device` error if it cannot be opened.
    pub fn gpu(self) -> Result<Option<&'static Gpu>> {
        match self {
            Device::Cpu => Ok(None),
            Device::Cuda(ordinal) => gpu::open(ordinal).map(Some),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}
