//! Where numbers live and where work runs.
//!
//! The CPU engine is complete. The CUDA side is laid out (the device, the launcher interface, the search for libraries)
//! and says plainly that its kernels are not in this version; it never stops a machine without a GPU from starting,
//! because everything CUDA is loaded at run time.

pub mod cuda;
pub mod info;
pub mod launch;
pub mod pool;

use crate::error::{Error, Result};

/// A device that holds tensors and runs operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Host memory, all cores (rayon).
    Cpu,
    /// The CUDA GPU of this ordinal.
    Cuda(usize),
}

impl Device {
    /// Reads `cpu`, `cuda`, `cuda:N` or `auto` (the first usable GPU, else the CPU).
    ///
    /// # Errors
    /// A `Usage` error for any other word; a `Device` error where CUDA is asked for and cannot be had.
    pub fn parse(text: &str) -> Result<Device> {
        match text {
            // No kernels, no choice: `auto` takes the GPU once the CUDA engine can train there.
            "cpu" | "auto" => Ok(Device::Cpu),
            "cuda" => cuda::open(0),
            _ => match text.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => cuda::open(ordinal),
                None => Err(Error::usage(format!("unknown device \"{text}\"; choose cpu, cuda, cuda:N or auto"))),
            },
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
