//! Launches on the emulator in few words.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Mutex;

use crate::library::{Library, library};
use taper::device::launch::Geometry;

/// Device memory, given back when dropped.
pub struct Memory {
    library: &'static Library,
    address: *mut c_void,
    bytes: usize,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Value {
    Pointer(*mut c_void),
    U32(u32),
    U64(u64),
    F32(f32),
}

/// The emulator, or None with a printed line.
pub struct Device(pub &'static Library);

/// The device's memory is checked as a whole: a test that writes out of bounds must not meet another.
static CHECKED: Mutex<()> = Mutex::new(());

impl Device {
    pub fn new() -> Option<Device> {
        library().map(Device)
    }

    /// Memory for `n` elements, NaN in every byte.
    pub fn empty<T>(&self, n: usize) -> Memory {
        let bytes = n * size_of::<T>();
        let address = self.0.allocate(bytes);
        assert!(!address.is_null());
        Memory { library: self.0, address, bytes }
    }

    pub fn with<T: bytemuck::Pod>(&self, values: &[T]) -> Memory {
        let memory = self.empty::<T>(values.len());
        let bytes: &[u8] = bytemuck::cast_slice(values);
        // SAFETY: the memory is as large as the slice, and nobody else has it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.address.cast(), bytes.len()) };
        memory
    }

    /// Launches on a one-dimensional grid; the reason if it fails, or if a red zone was written to.
    pub fn launch(&self, kernel: &str, grid: u32, block: u32, shared: u32, arguments: &[Value]) -> Result<(), String> {
        let name = CString::new(kernel).unwrap();
        let geometry = Geometry { grid: [grid, 1, 1], block: [block, 1, 1], shared_bytes: shared };
        let mut values: Vec<[u8; 8]> = Vec::new();
        let mut sizes = Vec::new();
        for argument in arguments {
            let mut bytes = [0; 8];
            let size = match argument {
                Value::Pointer(pointer) => copy(&mut bytes, &(*pointer as u64).to_ne_bytes()),
                Value::U32(number) => copy(&mut bytes, &number.to_ne_bytes()),
                Value::U64(number) => copy(&mut bytes, &number.to_ne_bytes()),
                Value::F32(number) => copy(&mut bytes, &number.to_ne_bytes()),
            };
            values.push(bytes);
            sizes.push(size);
        }
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|bytes| bytes.as_mut_ptr().cast()).collect();
        let mut message: [c_char; 1024] = [0; 1024];
        let guard = CHECKED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let failed = self.0.launch(&name, geometry, &mut pointers, &sizes, &mut message) || self.0.check(&mut message);
        drop(guard);
        if !failed {
            return Ok(());
        }
        // SAFETY: the emulator ends its text with a zero.
        Err(unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned())
    }
}

fn copy(to: &mut [u8; 8], from: &[u8]) -> u32 {
    to[..from.len()].copy_from_slice(from);
    from.len() as u32
}

impl Memory {
    /// Its address, as an argument.
    pub fn at(&self) -> Value {
        Value::Pointer(self.address)
    }

    pub fn read<T: bytemuck::Pod>(&self) -> Vec<T> {
        let mut bytes = vec![0u8; self.bytes];
        // SAFETY: the memory is as large as the vector.
        unsafe { std::ptr::copy_nonoverlapping(self.address.cast(), bytes.as_mut_ptr(), self.bytes) };
        bytemuck::pod_collect_to_vec(&bytes)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.library.free(self.address);
    }
}
