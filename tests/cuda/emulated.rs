//! An emulated GPU: the kernels built for the CPU by the machine's C++ compiler, host memory, and a matrix product on the
//! CPU with cuBLASLt's semantics. Everything of the engine but the driver calls themselves runs on it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::Mutex;

use half::{bf16, f16};
use taper::device::launch::{Arg, Driver, Epilogue, Geometry, GpuFacts, GpuMatrix, Product, Recording};
use taper::device::{DType, Device};
use taper::error::{Error, Result};
use taper::ops::gelu;
use taper::ops::matmul::{Into, Mat, MatMut, Threads, gemm};

use super::library::Library;

thread_local! {
    /// What this thread has asked for since [`traced`] began: kernels by name, "multiply", and where work went next to.
    static TRACE: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Everything that `work` asks of the emulated GPU, in order.
pub fn traced(work: impl FnOnce()) -> Vec<String> {
    TRACE.set(Some(Vec::new()));
    work();
    TRACE.take().unwrap_or_default()
}

fn note(what: &str) {
    TRACE.with_borrow_mut(|trace| trace.iter_mut().for_each(|trace| trace.push(what.into())));
}

/// The emulated GPU.
pub struct Emulated {
    library: &'static Library,
    facts: GpuFacts,
    /// Lengths of live allocations by address.
    live: Mutex<BTreeMap<u64, usize>>,
    /// Bytes that may be allocated in all.
    room: usize,
    products: Mutex<Products>,
    /// While work is recorded: what it would have done.
    recording: Mutex<Option<Vec<Work>>>,
}

/// Something a GPU does in the order of the calls.
enum Work {
    Launch(String, Geometry, Vec<Arg>),
    Multiply(Product),
    Copy(u64, u64, usize),
    Clear(u64, usize),
}

/// Recorded work.
struct Recorded {
    driver: &'static Emulated,
    work: Vec<Work>,
}

impl Recording for Recorded {
    fn start(&self) -> Result<()> {
        self.work.iter().try_for_each(|work| match work {
            Work::Launch(kernel, geometry, arguments) => self.driver.launch(kernel, *geometry, arguments),
            Work::Multiply(product) => self.driver.multiply(product),
            Work::Copy(to, from, bytes) => self.driver.copy(*to, *from, *bytes),
            Work::Clear(address, bytes) => self.driver.clear(*address, *bytes),
        })
    }
}

/// Algorithms by shape: there is one only, "00", and what was asked of it is remembered.
#[derive(Default)]
struct Products {
    tuning: bool,
    seen: BTreeMap<String, String>,
}

impl Emulated {
    /// An emulated GPU with so much memory, as a device of the library.
    pub fn device(library: &'static Library, room: usize) -> Device {
        let facts = GpuFacts {
            name: "an emulated GPU".into(),
            capability: (8, 0),
            multiprocessors: 4,
            memory_bytes: room as u64,
            libraries: "emulator".into(),
        };
        let emulated: &'static Emulated = Box::leak(Box::new(Emulated {
            library,
            facts,
            live: Mutex::default(),
            products: Mutex::default(),
            recording: Mutex::default(),
            room,
        }));
        taper::device::gpu::register(Box::new(emulated))
    }

    /// The bytes of a live allocation, or a part of one.
    fn bytes(&self, address: u64, len: usize) -> Result<*mut u8> {
        let live = self.live.lock().unwrap();
        match live.range(..=address).next_back() {
            Some((start, bytes)) if address + len as u64 <= start + *bytes as u64 => Ok(address as *mut u8),
            _ => Err(Error::Device(format!("{len} bytes at {address:#x} are not in one live allocation"))),
        }
    }

    /// Keeps the work for later, if it is being recorded.
    fn recorded(&self, work: impl FnOnce() -> Work) -> bool {
        match &mut *self.recording.lock().unwrap() {
            Some(list) => {
                list.push(work());
                true
            }
            None => false,
        }
    }

    fn refuse_while_recording(&self) -> Result<()> {
        match self.recording.lock().unwrap().is_some() {
            true => {
                Err(Error::Device("copying to or from the host, or waiting, cannot be part of recorded work".into()))
            }
            false => Ok(()),
        }
    }

    fn read(&self, matrix: &GpuMatrix) -> Result<Vec<f32>> {
        let size = matrix.dtype.size();
        let len = ((matrix.rows.max(1) - 1) * matrix.stride + matrix.cols) * size;
        let bytes = self.bytes(matrix.address, len)?;
        // SAFETY: `bytes` checked that the range is in a live allocation, which only this thread's calls change.
        let bytes = unsafe { std::slice::from_raw_parts(bytes, len) };
        let row = |row: usize| &bytes[row * matrix.stride * size..][..matrix.cols * size];
        Ok((0..matrix.rows).flat_map(|i| values(row(i), matrix.dtype)).collect())
    }

    fn write(&self, matrix: &GpuMatrix, values: &[f32]) -> Result<()> {
        let (size, width) = (matrix.dtype.size(), matrix.cols);
        for (i, row) in values.chunks_exact(width).enumerate() {
            let start = self.bytes(matrix.address + (i * matrix.stride * size) as u64, width * size)?;
            // SAFETY: the range is in a live allocation.
            store(unsafe { std::slice::from_raw_parts_mut(start, width * size) }, row, matrix.dtype);
        }
        Ok(())
    }
}

fn values(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let halves = bytes.chunks_exact(2).map(|two| u16::from_ne_bytes([two[0], two[1]]));
    match dtype {
        DType::BF16 => halves.map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        DType::F16 => halves.map(|bits| f16::from_bits(bits).to_f32()).collect(),
        DType::F32 | DType::U32 => {
            bytes.chunks_exact(4).map(|four| f32::from_ne_bytes([four[0], four[1], four[2], four[3]])).collect()
        }
    }
}

fn store(bytes: &mut [u8], values: &[f32], dtype: DType) {
    for (bytes, &value) in bytes.chunks_exact_mut(dtype.size()).zip(values) {
        match dtype {
            DType::BF16 => bytes.copy_from_slice(&bf16::from_f32(value).to_bits().to_ne_bytes()),
            DType::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_bits().to_ne_bytes()),
            DType::F32 | DType::U32 => bytes.copy_from_slice(&value.to_ne_bytes()),
        }
    }
}

impl Driver for &'static Emulated {
    fn facts(&self) -> &GpuFacts {
        &self.facts
    }

    fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        let mut live = self.live.lock().unwrap();
        if live.values().sum::<usize>() + bytes > self.room {
            return Ok(None);
        }
        let address = self.library.allocate(bytes) as u64;
        assert!(address != 0 && address.is_multiple_of(256), "the host has no memory left");
        live.insert(address, bytes);
        Ok(Some(address))
    }

    fn free(&self, address: u64) {
        if self.live.lock().unwrap().remove(&address).is_some() {
            self.library.free(address as *mut c_void);
        }
    }

    fn handed_out(&self, address: u64, bytes: usize) {
        let start = self.bytes(address, bytes).expect("the pool hands out what is live");
        // SAFETY: the range is in a live allocation. All ones are a NaN in every dtype.
        unsafe { std::ptr::write_bytes(start, 0xff, bytes) };
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.refuse_while_recording()?;
        let to = self.bytes(address, bytes.len())?;
        // SAFETY: the range is in a live allocation, and host slices lie elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn download(&self, bytes: &mut [u8], address: u64) -> Result<()> {
        self.refuse_while_recording()?;
        let from = self.bytes(address, bytes.len())?;
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        if self.recorded(|| Work::Copy(to, from, bytes)) {
            return Ok(());
        }
        let (to, from) = (self.bytes(to, bytes)?, self.bytes(from, bytes)?);
        // SAFETY: both ranges are in live allocations; `copy` allows them to overlap.
        unsafe { std::ptr::copy(from, to, bytes) };
        Ok(())
    }

    fn clear(&self, address: u64, bytes: usize) -> Result<()> {
        if self.recorded(|| Work::Clear(address, bytes)) {
            return Ok(());
        }
        let start = self.bytes(address, bytes)?;
        // SAFETY: the range is in a live allocation.
        unsafe { std::ptr::write_bytes(start, 0, bytes) };
        Ok(())
    }

    fn beside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        note("next to {");
        let done = work();
        note("}");
        done
    }

    fn join(&self) -> Result<()> {
        note("join");
        Ok(())
    }

    fn launch(&self, kernel: &str, geometry: Geometry, arguments: &[Arg]) -> Result<()> {
        if self.recorded(|| Work::Launch(kernel.to_string(), geometry, arguments.to_vec())) {
            return Ok(());
        }
        note(kernel);
        // What a real launch would find by name must be in a file that the binary holds.
        taper::device::kernels::source_of(kernel)?;
        let name = CString::new(kernel).expect("a kernel's name");
        let mut values: Vec<([u8; 8], usize)> = arguments.iter().map(Arg::bytes).collect();
        let sizes: Vec<u32> = values.iter().map(|(_, size)| *size as u32).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|(bytes, _)| bytes.as_mut_ptr().cast()).collect();
        let mut message = [0 as c_char; 512];
        let failed = self.library.launch(&name, geometry, &mut pointers, &sizes, &mut message)
            || self.library.check(&mut message);
        if failed {
            // SAFETY: the emulator terminates its message.
            let why = unsafe { std::ffi::CStr::from_ptr(message.as_ptr()) }.to_string_lossy();
            return Err(Error::Device(format!("{kernel} with {geometry:?}: {why}")));
        }
        Ok(())
    }

    fn multiply(&self, product: &Product) -> Result<()> {
        if self.recorded(|| Work::Multiply(*product)) {
            return Ok(());
        }
        note("multiply");
        let Product { a, b, c, alpha, beta, bias, epilogue } = *product;
        let ((m, k), (inner, n)) = (a.extent(), b.extent());
        let shapes = format!("{a:?} times {b:?} into {c:?}");
        assert!(k == inner && (m, n) == (c.rows, c.cols) && !c.transposed, "{shapes}");
        assert!(a.dtype == b.dtype && (c.dtype == a.dtype || c.dtype == DType::F32), "{shapes}");
        let (left, right) = (self.read(&a)?, self.read(&b)?);
        let mat = |values, of: &GpuMatrix| {
            let mat = Mat::new(values, of.rows, of.cols);
            if of.transposed { mat.t() } else { mat }
        };
        let mut sum = vec![0.0; m * n];
        gemm(MatMut::new(&mut sum, m, n), Into::Set, alpha, mat(&left, &a), mat(&right, &b), Threads::All);
        if beta != 0.0 {
            sum.iter_mut().zip(self.read(&c)?).for_each(|(sum, old)| *sum += beta * old);
        }
        if let Some(bias) = bias {
            let bias = self.read(&GpuMatrix::new(bias, c.dtype, 1, n))?;
            sum.chunks_exact_mut(n).for_each(|row| row.iter_mut().zip(&bias).for_each(|(sum, bias)| *sum += bias));
        }
        match epilogue {
            Epilogue::Plain => {}
            Epilogue::Gelu { input } => {
                self.write(&GpuMatrix { address: input, ..c }, &sum)?;
                let x = sum.clone();
                gelu::cpu::forward(&mut sum, &x, gelu::Kind::Tanh);
            }
            Epilogue::GeluBackward { input } => {
                let x = self.read(&GpuMatrix { address: input, ..c })?;
                gelu::cpu::backward(&mut sum, &x, gelu::Kind::Tanh);
            }
        }
        let mut products = self.products.lock().unwrap();
        if products.tuning {
            let gelu = match epilogue {
                Epilogue::Plain => "",
                Epilogue::Gelu { .. } => " gelu",
                Epilogue::GeluBackward { .. } => " gelu backward",
            };
            products.seen.insert(format!("{m}x{n}x{k}{gelu}"), "00".into());
        }
        self.write(&c, &sum)
    }

    fn allow_tf32(&self, _allow: bool) {}

    fn use_algorithms(&self, algorithms: &BTreeMap<String, String>) -> Result<()> {
        match algorithms.values().all(|algorithm| algorithm == "00") {
            true => Ok(()),
            false => Err(Error::Device("an algorithm of another library".into())),
        }
    }

    fn tune(&self, tuning: bool) {
        self.products.lock().unwrap().tuning = tuning;
    }

    fn tuned(&self) -> BTreeMap<String, String> {
        self.products.lock().unwrap().seen.clone()
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>> {
        *self.recording.lock().unwrap() = Some(Vec::new());
        let done = work();
        let work = self.recording.lock().unwrap().take().unwrap();
        done.map(|()| -> Box<dyn Recording> { Box::new(Recorded { driver: self, work }) })
    }

    fn synchronize(&self) -> Result<()> {
        self.refuse_while_recording()
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok((self.room - self.live.lock().unwrap().values().sum::<usize>()) as u64)
    }
}
