//! A GPU in use: its driver, and a pool of its memory.
//!
//! A training step asks for the same sizes again and again, so freed buffers wait in a list by size: after the first steps
//! nothing is allocated any more. Work on a GPU happens in the order of the calls, so a buffer may be handed out again
//! while the work of its last owner is still on its way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

use super::launch::{Arg, Driver, Geometry, Recording};
use super::products::ProductTable;
use super::{Device, cuda};
use crate::error::{Error, Result};

/// Sizes are rounded up to this many bytes, so that nearly equal requests share a list.
const GRAIN: usize = 512;

/// A GPU, its pool and its counters. It lives as long as the process.
pub struct Gpu {
    driver: Box<dyn Driver>,
    device: Device,
    pool: Mutex<Pool>,
    live: AtomicUsize,
    held: AtomicUsize,
    peak: AtomicUsize,
    allocations: AtomicUsize,
    gelu_epilogue: AtomicBool,
}

/// Buffers that wait for a new owner, by size.
type Free = BTreeMap<usize, Vec<u64>>;

#[derive(Default)]
struct Pool {
    free: Free,
    /// While work is recorded: what it has freed. That is its own as long as the recording lives, because it will be used
    /// again by every start.
    recording: Option<Free>,
}

/// Recorded work, and the memory that it uses besides what its caller holds.
pub struct Recorded {
    recording: Box<dyn Recording>,
    _buffers: Vec<GpuBuffer>,
}

impl Recorded {
    /// Starts it; see [`Recording::start`].
    ///
    /// # Errors
    /// A `Device` error.
    pub fn start(&self) -> Result<()> {
        self.recording.start()
    }
}

/// The GPUs in use, by ordinal.
static GPUS: RwLock<BTreeMap<usize, &'static Gpu>> = RwLock::new(BTreeMap::new());

/// Ordinals of drivers that [`register`] brings; real GPUs have those below.
const FIRST_REGISTERED: usize = 1000;

/// Brings a driver of the caller's own (an emulator) and gives the device that stands for it.
pub fn register(driver: Box<dyn Driver>) -> Device {
    let mut gpus = GPUS.write().unwrap_or_else(|poison| poison.into_inner());
    let last = gpus.keys().next_back().copied().unwrap_or(0);
    let ordinal = FIRST_REGISTERED.max(last + 1);
    gpus.insert(ordinal, Gpu::leak(driver, ordinal));
    Device::Cuda(ordinal)
}

/// Opens the GPU `ordinal` of this machine, if that has not been done.
///
/// # Errors
/// A `Device` error in one sentence: no driver, too old a driver, no such GPU, a library that is missing.
pub fn open(ordinal: usize) -> Result<&'static Gpu> {
    if let Some(gpu) = GPUS.read().unwrap_or_else(|poison| poison.into_inner()).get(&ordinal) {
        return Ok(gpu);
    }
    let mut gpus = GPUS.write().unwrap_or_else(|poison| poison.into_inner());
    if let Some(gpu) = gpus.get(&ordinal) {
        return Ok(gpu);
    }
    let gpu = Gpu::leak(Box::new(cuda::CudaDriver::open(ordinal)?), ordinal);
    gpus.insert(ordinal, gpu);
    Ok(gpu)
}

/// Why `auto` trains on the CPU although an NVIDIA driver is here: what stops the GPU from being used. None where there is
/// no driver, or the GPU works.
pub fn why_idle() -> Option<String> {
    cuda::find_driver()?;
    open(0).err().map(|error| error.to_string())
}

impl Gpu {
    // A GPU's buffers may be dropped at any time up to the end of the process, so the GPU is never torn down before.
    fn leak(driver: Box<dyn Driver>, ordinal: usize) -> &'static Gpu {
        Box::leak(Box::new(Gpu {
            driver,
            device: Device::Cuda(ordinal),
            pool: Mutex::default(),
            live: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            allocations: AtomicUsize::new(0),
            gelu_epilogue: AtomicBool::new(false),
        }))
    }

    /// The driver.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// The device that stands for it.
    pub fn device(&self) -> Device {
        self.device
    }

    /// From now on matrix products go by `table`.
    ///
    /// # Errors
    /// A `Usage` error if it was measured on other hardware or with other libraries.
    pub fn use_products(&self, table: &ProductTable) -> Result<()> {
        let here = self.driver.facts().kind();
        if table.hardware != here {
            return Err(Error::usage(format!(
                "the table of matrix products was measured on {}, and this is {here}: make one here by `taper bench tune`, or \
                 remove precision.matmul_table",
                table.hardware
            )));
        }
        self.driver.use_algorithms(&table.algorithms)?;
        self.set_gelu_epilogue(table.gelu_epilogue);
        Ok(())
    }

    /// Whether GELU and its gradient are computed inside the matrix products before them; at first they are not.
    pub fn gelu_epilogue(&self) -> bool {
        self.gelu_epilogue.load(Ordering::Relaxed)
    }

    /// Changes [`Gpu::gelu_epilogue`] from now on.
    pub fn set_gelu_epilogue(&self, on: bool) {
        self.gelu_epilogue.store(on, Ordering::Relaxed);
    }

    /// Starts a kernel; see [`Driver::launch`]. A launch without blocks is nothing.
    ///
    /// # Errors
    /// A `Device` error that names the kernel.
    pub fn launch(&self, kernel: &str, geometry: Geometry, arguments: &[Arg]) -> Result<()> {
        if geometry.grid.contains(&0) {
            return Ok(());
        }
        self.driver.launch(kernel, geometry, arguments)
    }

    /// A buffer of at least `bytes` bytes whose content is unspecified.
    ///
    /// # Errors
    /// A `Device` error if the GPU's memory is full.
    pub fn take(&'static self, bytes: usize) -> Result<GpuBuffer> {
        let bytes = bytes.max(1).next_multiple_of(GRAIN);
        let reused = {
            let mut pool = self.lock();
            let recorded = pool.recording.as_mut().and_then(|free| free.get_mut(&bytes)).and_then(Vec::pop);
            recorded.or_else(|| pool.free.get_mut(&bytes).and_then(Vec::pop))
        };
        let address = match reused {
            Some(address) => {
                self.driver.handed_out(address, bytes);
                address
            }
            None => self.allocate(bytes)?,
        };
        let live = self.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(live, Ordering::Relaxed);
        Ok(GpuBuffer { gpu: self, address, bytes })
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        let mut found = self.driver.allocate(bytes)?;
        if found.is_none() {
            // What waits in the pool has other sizes: give it back and ask once more.
            self.release()?;
            found = self.driver.allocate(bytes)?;
        }
        let Some(address) = found else {
            const MIB: usize = 1 << 20;
            return Err(Error::Device(format!(
                "{} is out of memory: {} MiB more were asked for, {} MiB are in use of {} MiB; lower train.micro_batch \
                 (train.global_batch stays, by accumulation), set train.recompute = true, or leave train.micro_batch = \
                 \"auto\"",
                self.driver.facts().name,
                bytes.div_ceil(MIB),
                self.live_bytes() / MIB,
                self.driver.facts().memory_bytes / MIB as u64
            )));
        };
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(address)
    }

    /// Gives the waiting buffers back to the driver.
    ///
    /// # Errors
    /// A `Device` error of earlier work.
    pub fn release(&self) -> Result<()> {
        self.driver.synchronize()?;
        let free = std::mem::take(&mut self.lock().free);
        for (bytes, addresses) in free {
            for address in addresses {
                self.driver.free(address);
                self.held.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Records the work that `work` starts instead of doing it; see [`Driver::record`]. What `work` allocates and frees
    /// stays with the recording; tensors that it hands out (its results) the caller keeps as long as it starts the
    /// recording.
    ///
    /// # Errors
    /// That of `work`, or a `Device` error.
    pub fn record(&'static self, work: &mut dyn FnMut() -> Result<()>) -> Result<Recorded> {
        self.lock().recording = Some(Free::new());
        let recording = self.driver.record(work);
        let freed = self.lock().recording.take().unwrap_or_default();
        let mut buffers = Vec::new();
        for (bytes, addresses) in freed {
            self.live.fetch_add(bytes * addresses.len(), Ordering::Relaxed);
            buffers.extend(addresses.into_iter().map(|address| GpuBuffer { gpu: self, address, bytes }));
        }
        Ok(Recorded { recording: recording?, _buffers: buffers })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Bytes in live buffers now.
    pub fn live_bytes(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Bytes held from the driver now: live buffers, and those that wait.
    pub fn held_bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// The most bytes that were live at once since the last [`Gpu::reset_peak`].
    pub fn peak_bytes(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Starts a new measurement of the peak.
    pub fn reset_peak(&self) {
        self.peak.store(self.live_bytes(), Ordering::Relaxed);
    }

    /// How often the driver was asked for memory.
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({}, {})", self.device, self.driver.facts().name)
    }
}

/// A block of device memory, given back to the pool when dropped.
#[derive(Debug)]
pub struct GpuBuffer {
    gpu: &'static Gpu,
    address: u64,
    bytes: usize,
}

impl GpuBuffer {
    /// The GPU.
    pub fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    /// The device address of the first byte.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for GpuBuffer {
    fn drop(&mut self) {
        self.gpu.live.fetch_sub(self.bytes, Ordering::Relaxed);
        let mut pool = self.gpu.lock();
        let Pool { free, recording } = &mut *pool;
        recording.as_mut().unwrap_or(free).entry(self.bytes).or_default().push(self.address);
    }
}
