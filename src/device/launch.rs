//! What the engine asks of a GPU: memory, kernel launches, matrix products.
//!
//! Operators describe a launch (kernel, grid, block, shared bytes, arguments) and do not know who executes it: the CUDA
//! driver on a real GPU, or an emulator in tests. Grids, argument order, shared sizes and buffer plans are thereby tested
//! without a GPU; what is left to a real one are the driver calls themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::DType;
use crate::error::Result;

/// A moment in the order of a GPU's work, set when the GPU comes to it.
pub type Mark = Arc<OnceLock<Instant>>;

/// A kernel's argument, by value, in the order of its C signature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A device address (0 is the null pointer).
    Pointer(u64),
    /// A 32-bit signed integer.
    I32(i32),
    /// A 32-bit unsigned integer.
    U32(u32),
    /// A 64-bit unsigned integer.
    U64(u64),
    /// A single-precision number.
    F32(f32),
    /// A double-precision number.
    F64(f64),
}

impl Arg {
    /// The bytes as the kernel takes them (the first of them), and how many there are.
    pub fn bytes(&self) -> ([u8; 8], usize) {
        let four = |value: [u8; 4]| {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&value);
            (bytes, 4)
        };
        match *self {
            Arg::Pointer(value) | Arg::U64(value) => (value.to_ne_bytes(), 8),
            Arg::F64(value) => (value.to_ne_bytes(), 8),
            Arg::I32(value) => four(value.to_ne_bytes()),
            Arg::U32(value) => four(value.to_ne_bytes()),
            Arg::F32(value) => four(value.to_ne_bytes()),
        }
    }
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

impl Geometry {
    /// `blocks` blocks of `threads` threads, in x only, without dynamic shared memory.
    pub fn linear(blocks: usize, threads: usize) -> Geometry {
        Geometry { grid: [blocks as u32, 1, 1], block: [threads as u32, 1, 1], shared_bytes: 0 }
    }
}

/// A row-major matrix in device memory, as a matrix product reads or writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMatrix {
    /// The device address of the first element.
    pub address: u64,
    /// Element type: F32, BF16 or F16.
    pub dtype: DType,
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub cols: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Whether the product takes its transpose.
    pub transposed: bool,
}

impl GpuMatrix {
    /// A contiguous matrix.
    pub fn new(address: u64, dtype: DType, rows: usize, cols: usize) -> GpuMatrix {
        GpuMatrix { address, dtype, rows, cols, stride: cols, transposed: false }
    }

    /// The same matrix with rows that stand further apart.
    pub fn with_stride(self, stride: usize) -> GpuMatrix {
        GpuMatrix { stride, ..self }
    }

    /// The same memory, taken as the transpose.
    pub fn t(self) -> GpuMatrix {
        GpuMatrix { transposed: !self.transposed, ..self }
    }

    /// Rows and columns as the product sees them.
    pub fn extent(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }
}

/// What a product does to its result before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// Nothing.
    Plain,
    /// `c = gelu(p)` (the tanh form) of what would have been the result, `p`, which is written to the device address `input`
    /// as well: [M, N], `c`'s dtype and stride.
    Gelu {
        /// Where `p` goes.
        input: u64,
    },
    /// `c` times the derivative of GELU at what stands at the device address `input`.
    GeluBackward {
        /// What [`Epilogue::Gelu`] wrote.
        input: u64,
    },
}

/// `c = alpha a b + beta c`, plus a row vector where `bias` is given; sums in f32. The inputs share a dtype.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Left factor, [M, K] as the product sees it.
    pub a: GpuMatrix,
    /// Right factor, [K, N].
    pub b: GpuMatrix,
    /// Result, [M, N], not transposed; F32 or the inputs' dtype.
    pub c: GpuMatrix,
    /// What the product is multiplied with.
    pub alpha: f32,
    /// What the former content of `c` is multiplied with: 0 (not read) or 1.
    pub beta: f32,
    /// The device address of N values of `c`'s dtype that are added to each row.
    pub bias: Option<u64>,
    /// What is done to the sum at last.
    pub epilogue: Epilogue,
}

impl Product {
    /// `c = a b`.
    pub fn set(c: GpuMatrix, a: GpuMatrix, b: GpuMatrix) -> Product {
        Product { a, b, c, alpha: 1.0, beta: 0.0, bias: None, epilogue: Epilogue::Plain }
    }

    /// `c += a b`.
    pub fn add(c: GpuMatrix, a: GpuMatrix, b: GpuMatrix) -> Product {
        Product { beta: 1.0, ..Product::set(c, a, b) }
    }

    /// The product times a factor.
    pub fn times(self, alpha: f32) -> Product {
        Product { alpha, ..self }
    }
}

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct GpuFacts {
    /// The name that the driver gives it.
    pub name: String,
    /// Major and minor compute capability: (8, 0) is an A100.
    pub capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// What decides bits besides the GPU: versions of driver, compiler and matrix library.
    pub libraries: String,
}

impl GpuFacts {
    /// The hardware kind: GPUs of one kind give the same bits.
    pub fn kind(&self) -> String {
        format!("gpu {} ({}.{}), {}", self.name, self.capability.0, self.capability.1, self.libraries)
    }
}

/// Work that was recorded, to be started again as a whole (a CUDA graph).
pub trait Recording: Send {
    /// Starts it, in the order of the calls.
    ///
    /// # Errors
    /// A `Device` error.
    fn start(&self) -> Result<()>;
}

/// A GPU as tensors and operators need one. All work happens in the order of the calls, on one stream.
pub trait Driver: Send + Sync {
    /// What this GPU is.
    fn facts(&self) -> &GpuFacts;

    /// Device memory of so many bytes, aligned to 256; None where there is not enough.
    ///
    /// # Errors
    /// A `Device` error for any other failure.
    fn allocate(&self, bytes: usize) -> Result<Option<u64>>;

    /// Gives memory back. Work that was launched before may still use it until it is done.
    fn free(&self, address: u64);

    /// Memory that waited in the pool goes to a new owner, who writes all of it before reading. An emulator fills it with
    /// NaN here; a GPU does nothing.
    fn handed_out(&self, address: u64, bytes: usize) {
        let _ = (address, bytes);
    }

    /// Copies host bytes to the device; they may be changed as soon as it returns. Does not wait for earlier work.
    ///
    /// # Errors
    /// A `Device` error.
    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()>;

    /// Copies device memory to the host, after all earlier work: it waits.
    ///
    /// # Errors
    /// A `Device` error, also one of earlier work.
    fn download(&self, bytes: &mut [u8], address: u64) -> Result<()>;

    /// Copies within the device.
    ///
    /// # Errors
    /// A `Device` error.
    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()>;

    /// Sets device bytes to zero.
    ///
    /// # Errors
    /// A `Device` error.
    fn clear(&self, address: u64, bytes: usize) -> Result<()>;

    /// Starts `kernel` with `arguments`.
    ///
    /// # Errors
    /// A `Device` error that names the kernel, if it is unknown or the launch is refused.
    fn launch(&self, kernel: &str, geometry: Geometry, arguments: &[Arg]) -> Result<()>;

    /// Starts a matrix product.
    ///
    /// # Errors
    /// A `Device` error that gives the shape.
    fn multiply(&self, product: &Product) -> Result<()>;

    /// Whether products of f32 matrices may round their factors to TF32, from now on; at first they may not.
    fn allow_tf32(&self, allow: bool);

    /// From now on the shapes in `algorithms` use the algorithm given there (shape to hexadecimal, as [`Driver::tuned`]
    /// gives them), all others the library's first heuristic.
    ///
    /// # Errors
    /// A `Device` error if one is no algorithm of the library at hand.
    fn use_algorithms(&self, algorithms: &BTreeMap<String, String>) -> Result<()>;

    /// From now on, or no longer: for every shape that is met for the first time several algorithms are tried on the
    /// matrices of the call, and the fastest is kept. The result of such a product may have been added several times.
    fn tune(&self, tuning: bool);

    /// What [`Driver::tune`] found, shape to algorithm.
    fn tuned(&self) -> BTreeMap<String, String>;

    /// Records the work that `work` starts instead of doing it. It must not copy to or from the host, nor wait.
    ///
    /// # Errors
    /// That of `work`; a `Device` error if it does what it must not.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>>;

    /// The stream that work is put on, for a library that puts work there itself, with this thread set up for that. `None`
    /// where there is none (an emulator).
    ///
    /// # Errors
    /// A `Device` error.
    fn stream(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Puts what `work` starts (copies within the device, kernels, and what a library puts on [`Driver::stream`]) next
    /// to the other work, after all that was started before. [`Driver::join`] brings the two together; until then
    /// memory that it uses must not go to another owner. A driver that does all work at once (an emulator) calls
    /// `work`, and that is all.
    ///
    /// # Errors
    /// That of `work`; a `Device` error.
    fn beside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        work()
    }

    /// Lets all work that is started from now on wait for what was put next to it.
    ///
    /// # Errors
    /// A `Device` error.
    fn join(&self) -> Result<()> {
        Ok(())
    }

    /// The time at which all work started so far will have been done. It is set then.
    ///
    /// # Errors
    /// A `Device` error.
    fn mark(&self) -> Result<Mark> {
        Ok(Arc::new(OnceLock::from(Instant::now())))
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// A `Device` error of any work so far.
    fn synchronize(&self) -> Result<()>;

    /// Bytes that could still be allocated.
    ///
    /// # Errors
    /// A `Device` error.
    fn free_bytes(&self) -> Result<u64>;
}
