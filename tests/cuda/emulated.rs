//! An emulated GPU: the kernels built for the CPU by the machine's C++ compiler, host memory, and a matrix product on the
//! CPU with cuBLASLt's semantics. Everything of the engine but the driver calls themselves runs on it.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::Mutex;

use half::{bf16, f16};
use taper::device::launch::{Arg, Driver, Geometry, GpuFacts, GpuMatrix, Product};
use taper::device::{DType, Device};
use taper::error::{Error, Result};
use taper::ops::matmul::{Into, Mat, MatMut, Threads, gemm};

use super::library::Library;

/// The emulated GPU.
pub struct Emulated {
    library: &'static Library,
    facts: GpuFacts,
    /// Lengths of live allocations by address.
    live: Mutex<BTreeMap<u64, usize>>,
    /// Bytes that may be allocated in all.
    room: usize,
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
        taper::device::gpu::register(Box::new(Emulated { library, facts, live: Mutex::default(), room }))
    }

    /// The bytes of a live allocation, or a part of one.
    fn bytes(&self, address: u64, len: usize) -> Result<*mut u8> {
        let live = self.live.lock().unwrap();
        match live.range(..=address).next_back() {
            Some((start, bytes)) if address + len as u64 <= start + *bytes as u64 => Ok(address as *mut u8),
            _ => Err(Error::Device(format!("{len} bytes at {address:#x} are not in one live allocation"))),
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

impl Driver for Emulated {
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
        let to = self.bytes(address, bytes.len())?;
        // SAFETY: the range is in a live allocation, and host slices lie elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn download(&self, bytes: &mut [u8], address: u64) -> Result<()> {
        let from = self.bytes(address, bytes.len())?;
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        let (to, from) = (self.bytes(to, bytes)?, self.bytes(from, bytes)?);
        // SAFETY: both ranges are in live allocations; `copy` allows them to overlap.
        unsafe { std::ptr::copy(from, to, bytes) };
        Ok(())
    }

    fn clear(&self, address: u64, bytes: usize) -> Result<()> {
        let start = self.bytes(address, bytes)?;
        // SAFETY: the range is in a live allocation.
        unsafe { std::ptr::write_bytes(start, 0, bytes) };
        Ok(())
    }

    fn launch(&self, kernel: &str, geometry: Geometry, arguments: &[Arg]) -> Result<()> {
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
        let Product { a, b, c, alpha, beta, bias } = *product;
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
        let size = c.dtype.size();
        for (i, row) in sum.chunks_exact(n).enumerate() {
            let start = self.bytes(c.address + (i * c.stride * size) as u64, n * size)?;
            // SAFETY: the range is in a live allocation.
            store(unsafe { std::slice::from_raw_parts_mut(start, n * size) }, row, c.dtype);
        }
        Ok(())
    }

    fn allow_tf32(&self, _allow: bool) {}

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok((self.room - self.live.lock().unwrap().values().sum::<usize>()) as u64)
    }
}
