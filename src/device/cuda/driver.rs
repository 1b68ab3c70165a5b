//! The driver calls: context, stream, memory, modules, launches.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::{Mutex, OnceLock};

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use super::answer::{check, describe};
use super::blas::Blas;
use super::compile::{Compiler, Instance};
use super::graph::{self, Graph};
use super::side::{self, Side};
use super::{MINIMUM_CUDA, libraries};
use crate::device::kernels;
use crate::device::launch::{Arg, Driver, Geometry, GpuFacts, Mark, Product, Recording};
use crate::error::{Error, Result};

/// Bytes of page-locked host memory that uploads pass through, in turn. An upload of more waits for its own copy.
const STAGING: usize = 8 << 20;

/// A GPU of this machine.
pub struct CudaDriver {
    facts: GpuFacts,
    context: sys::CUcontext,
    stream: sys::CUstream,
    compiler: Compiler,
    functions: Mutex<BTreeMap<String, Function>>,
    modules: Mutex<BTreeMap<Instance, Module>>,
    blas: Blas,
    staging: Mutex<Staging>,
    side: OnceLock<Side>,
}

#[derive(Clone, Copy)]
struct Module(sys::CUmodule);

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// The dynamic shared memory that the function has been allowed.
    shared_bytes: u32,
}

struct Staging {
    memory: *mut u8,
    used: usize,
}

// SAFETY: contexts, streams, modules and functions are handles that the driver lets any thread use once the context is
// current, which every method here sees to; the staging memory is behind a lock.
unsafe impl Send for CudaDriver {}
// SAFETY: the driver API takes calls from several threads at once; what changes on our side (modules, functions, staging memory) is
// behind locks.
unsafe impl Sync for CudaDriver {}
// SAFETY: a handle that is valid in every thread in which the context is current; modules are never unloaded.
unsafe impl Send for Module {}
// SAFETY: a handle into a module, which is never unloaded.
unsafe impl Send for Function {}
// SAFETY: page-locked host memory that belongs to the process, not to a thread.
unsafe impl Send for Staging {}

impl CudaDriver {
    /// Opens the GPU `ordinal`: loads the libraries, checks versions, makes a context and a stream.
    ///
    /// # Errors
    /// A `Device` error in one sentence that names what is missing or too old, and the way to get it.
    pub fn open(ordinal: usize) -> Result<CudaDriver> {
        libraries::load("libcuda.so")?;
        // SAFETY: the driver is loaded, and takes no flags.
        let ready = unsafe { sys::cuInit(0) };
        if ready != CUresult::CUDA_SUCCESS {
            return Err(Error::Device(format!(
                "the NVIDIA driver does not start ({}); does nvidia-smi work here? --device cpu needs no GPU",
                describe(ready)
            )));
        }
        let (mut version, mut count, mut device) = (0, 0, 0);
        // SAFETY: the pointers are to live integers.
        check("asking for the driver's version", unsafe { sys::cuDriverGetVersion(&mut version) })?;
        if version < MINIMUM_CUDA {
            return Err(Error::Device(format!(
                "the NVIDIA driver supports CUDA {}.{} only; taper needs driver 525 (CUDA 12.0) or newer",
                version / 1000,
                version % 1000 / 10
            )));
        }
        // SAFETY: `count` is a live integer, and cuInit has succeeded.
        check("counting GPUs", unsafe { sys::cuDeviceGetCount(&mut count) })?;
        if ordinal >= count as usize {
            return Err(Error::Device(format!(
                "there is no cuda:{ordinal}: this machine shows {count} GPU(s), numbered from 0 (CUDA_VISIBLE_DEVICES \
                 hides others)"
            )));
        }
        // SAFETY: `device` is a live integer, and `ordinal` is below the count.
        check("opening the GPU", unsafe { sys::cuDeviceGet(&mut device, ordinal as i32) })?;
        let mut facts = device_facts(device)?;
        if facts.capability < (8, 0) {
            return Err(Error::Device(format!(
                "{} has compute capability {}.{}, and the kernels need 8.0 (A100, RTX 30) or newer for bf16 and \
                 asynchronous copies; use --device cpu",
                facts.name, facts.capability.0, facts.capability.1
            )));
        }
        let (mut context, mut stream) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the device handle is good; the context is retained for the rest of the process.
        check("making a context", unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) })?;
        // SAFETY: the context was just made.
        check("entering the context", unsafe { sys::cuCtxSetCurrent(context) })?;
        // A stream of our own that does not wait for the legacy default stream.
        // SAFETY: a context is current.
        check("making a stream", unsafe {
            sys::cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32)
        })?;
        let compiler = Compiler::new(facts.capability, version)?;
        compiler.warm_up()?;
        let blas = Blas::new(stream, version)?;
        let mut staging = ptr::null_mut();
        // SAFETY: a context is current.
        check("locking host memory", unsafe { sys::cuMemAllocHost_v2(&mut staging, STAGING) })?;
        facts.libraries = format!(
            "CUDA driver {}.{}, {}, {}",
            version / 1000,
            version % 1000 / 10,
            compiler.version(),
            blas.version()
        );
        Ok(CudaDriver {
            facts,
            context,
            stream,
            compiler,
            functions: Mutex::default(),
            modules: Mutex::default(),
            blas,
            staging: Mutex::new(Staging { memory: staging.cast(), used: 0 }),
            side: OnceLock::new(),
        })
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as the process.
        check("entering the context", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// The stream that this thread's work goes to.
    fn current(&self) -> sys::CUstream {
        match self.side.get() {
            Some(side) if side::is_beside() => side.stream(),
            _ => self.stream,
        }
    }

    /// The kernel of this name, allowed so much dynamic shared memory; compiled and loaded when first asked for.
    fn function(&self, kernel: &str, shared_bytes: u32) -> Result<sys::CUfunction> {
        let mut functions = self.functions.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some(known) = functions.get(kernel).filter(|known| known.shared_bytes >= shared_bytes) {
            return Ok(known.handle);
        }
        let source = kernels::source_of(kernel)?;
        let mut modules = self.modules.lock().unwrap_or_else(|poison| poison.into_inner());
        let definitions = kernels::definitions(kernel);
        let module = match modules.get(&(source.stem, definitions.clone())) {
            Some(module) => *module,
            None => {
                let cubin = self.compiler.cubin(source, &definitions)?;
                let mut module = ptr::null_mut();
                // SAFETY: the image is a whole cubin for this GPU.
                let loaded = unsafe { sys::cuModuleLoadData(&mut module, cubin.as_ptr().cast()) };
                check(&format!("loading the kernels of {}.cu", source.stem), loaded)?;
                modules.insert((source.stem, definitions), Module(module));
                Module(module)
            }
        };
        let name = CString::new(kernel).map_err(|_| Error::Device("a kernel's name holds a zero byte".into()))?;
        let mut handle = ptr::null_mut();
        // SAFETY: module and name are good.
        let found = unsafe { sys::cuModuleGetFunction(&mut handle, module.0, name.as_ptr()) };
        check(&format!("finding the kernel {kernel}"), found)?;
        // Beyond 48 KiB a kernel has to be allowed its shared memory.
        if shared_bytes > 48 << 10 {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is good.
            let allowed = unsafe { sys::cuFuncSetAttribute(handle, attribute, shared_bytes as i32) };
            check(&format!("allowing {kernel} {shared_bytes} bytes of shared memory"), allowed)?;
        }
        functions.insert(kernel.to_string(), Function { handle, shared_bytes });
        Ok(handle)
    }
}

/// What is always put on the first stream cannot be part of work next to it.
fn refuse_beside(what: &str) -> Result<()> {
    match side::is_beside() {
        true => Err(Error::Device(format!("{what} cannot be part of work next to the other"))),
        false => Ok(()),
    }
}

fn device_facts(device: sys::CUdevice) -> Result<GpuFacts> {
    let mut name = [0 as std::ffi::c_char; 128];
    // SAFETY: the buffer is as long as stated.
    check("asking for the GPU's name", unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 128, device) })?;
    let attribute = |which| -> Result<u32> {
        let mut value = 0;
        // SAFETY: the pointer is to a live integer.
        check("asking for the GPU's attributes", unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) })?;
        Ok(value as u32)
    };
    let mut memory = 0;
    // SAFETY: `memory` is a live integer.
    check("asking for the GPU's memory", unsafe { sys::cuDeviceTotalMem_v2(&mut memory, device) })?;
    Ok(GpuFacts {
        // SAFETY: the driver terminates the name.
        name: unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned(),
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory_bytes: memory as u64,
        libraries: String::new(),
    })
}

impl Driver for CudaDriver {
    fn facts(&self) -> &GpuFacts {
        &self.facts
    }

    fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: the pointer is to a live integer.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            result => check("allocating memory", result).map(|()| Some(address)),
        }
    }

    fn free(&self, address: u64) {
        // A failure here is one of earlier work, which the next call reports.
        if self.enter().is_ok() {
            // SAFETY: the address came from `allocate` and is given back once (the pool sees to it).
            let _ = unsafe { sys::cuMemFree_v2(address) };
        }
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        refuse_beside("copying to the GPU")?;
        graph::refuse_while_recording(self.stream, "copying to the GPU")?;
        let mut staging = self.staging.lock().unwrap_or_else(|poison| poison.into_inner());
        for part in bytes.chunks(STAGING) {
            let room = part.len().next_multiple_of(64);
            if staging.used + room > STAGING {
                // What is in the staging memory must have been copied before it is overwritten.
                self.synchronize()?;
                staging.used = 0;
            }
            // SAFETY: `used + part.len()` is within the staging memory, which nobody else has while the lock is held.
            let from = unsafe { staging.memory.add(staging.used) };
            // SAFETY: `from` has `part.len()` bytes left in the staging memory, which is no part of the caller's slice.
            unsafe { ptr::copy_nonoverlapping(part.as_ptr(), from, part.len()) };
            let to = address + (part.as_ptr() as usize - bytes.as_ptr() as usize) as u64;
            // SAFETY: the caller's buffer on the device is as long as `bytes`.
            let copied = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), part.len(), self.stream) };
            check("copying to the GPU", copied)?;
            staging.used += room;
        }
        Ok(())
    }

    fn download(&self, bytes: &mut [u8], address: u64) -> Result<()> {
        self.enter()?;
        refuse_beside("copying from the GPU")?;
        // SAFETY: both sides are as long as `bytes`, and the copy is over before the borrow ends (synchronize).
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), address, bytes.len(), self.stream) };
        check("copying from the GPU", copied)?;
        self.synchronize()
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: both buffers are live and long enough (tensors see to it).
        check("copying on the GPU", unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.current()) })
    }

    fn clear(&self, address: u64, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the buffer is live and long enough.
        check("clearing memory", unsafe { sys::cuMemsetD8Async(address, 0, bytes, self.current()) })
    }

    fn launch(&self, kernel: &str, geometry: Geometry, arguments: &[Arg]) -> Result<()> {
        self.enter()?;
        let function = self.function(kernel, geometry.shared_bytes)?;
        let mut values: Vec<[u8; 8]> = arguments.iter().map(|argument| argument.bytes().0).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| value.as_mut_ptr().cast()).collect();
        let Geometry { grid: [gx, gy, gz], block: [bx, by, bz], shared_bytes } = geometry;
        // SAFETY: the arguments are those of the kernel's signature (tests run every launch in the emulator, which checks
        // count and sizes), the buffers they point to are live, and work on them ends in stream order.
        let launched = unsafe {
            sys::cuLaunchKernel(
                function,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                shared_bytes,
                self.current(),
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check(&format!("launching {kernel} with {geometry:?}"), launched)
    }

    fn multiply(&self, product: &Product) -> Result<()> {
        self.enter()?;
        refuse_beside("a matrix product")?;
        self.blas.multiply(product)
    }

    fn allow_tf32(&self, allow: bool) {
        self.blas.allow_tf32(allow);
    }

    fn use_algorithms(&self, algorithms: &BTreeMap<String, String>) -> Result<()> {
        self.blas.use_algorithms(algorithms)
    }

    fn tune(&self, tuning: bool) {
        self.blas.tune(tuning);
    }

    fn tuned(&self) -> BTreeMap<String, String> {
        self.blas.tuned()
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>> {
        self.enter()?;
        Ok(Box::new(Graph::record(self.context, self.stream, work)?))
    }

    fn stream(&self) -> Result<Option<u64>> {
        self.enter()?;
        Ok(Some(self.current() as u64))
    }

    fn beside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.enter()?;
        let side = match self.side.get() {
            Some(side) => side,
            None => {
                let made = Side::new()?;
                self.side.get_or_init(|| made)
            }
        };
        side.run(self.stream, work)
    }

    fn join(&self) -> Result<()> {
        self.enter()?;
        self.side.get().map_or(Ok(()), |side| side.join(self.stream))
    }

    fn mark(&self) -> Result<Mark> {
        self.enter()?;
        side::mark(self.stream)
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        graph::refuse_while_recording(self.stream, "waiting for its work")?;
        // SAFETY: the stream lives as long as the driver.
        check("waiting for its work", unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    fn free_bytes(&self) -> Result<u64> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are to live integers.
        check("asking for free memory", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok(free as u64)
    }
}
