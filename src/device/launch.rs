//! The launcher interface, shaped like `cuLaunchKernel`: one way to start a kernel, whoever runs it.
//!
//! Operators describe a launch (kernel, grid, block, shared bytes, arguments) and do not know whether a GPU driver or
//! another engine executes it. That keeps grids, argument order and shared sizes testable without a GPU.

use crate::error::Result;

/// A kernel's argument, by value, in the order of its C signature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A device address.
    Pointer(u64),
    /// A 32-bit signed integer.
    I32(i32),
    /// A 32-bit unsigned integer.
    U32(u32),
    /// A 64-bit unsigned integer.
    U64(u64),
    /// A single-precision number.
    F32(f32),
}

/// The geometry of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

/// Something that runs kernels by name.
pub trait Launch {
    /// Starts `kernel` with `arguments`; work on one launcher happens in launch order.
    ///
    /// # Errors
    /// A `Device` error that names the kernel, if it is unknown or the launch is refused.
    fn launch(&self, kernel: &str, geometry: Geometry, arguments: &[Arg]) -> Result<()>;
}
