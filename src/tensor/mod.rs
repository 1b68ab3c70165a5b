//! `Tensor`: a typed, shaped, contiguous buffer on a device.
//!
//! Nothing clever: no strides, no broadcasting, no lazy evaluation. Operators work on plain slices (or, on a GPU, on
//! addresses), and this type carries shape, dtype and shared ownership. Clones and views share memory; writing needs sole
//! ownership and says so loudly otherwise (`f32_mut` and `address_mut` panic on shared memory, because that is our mistake
//! and never the user's).

pub mod element;

pub use crate::device::DType;
pub use element::Element;

use std::sync::Arc;

use half::bf16;

use crate::device::gpu::GpuBuffer;
use crate::device::launch::{Arg, Geometry};
use crate::device::pool::HostBuffer;
use crate::device::{Device, Gpu, convert};
use crate::error::{Error, Result};

/// A contiguous buffer with a shape. Cheap to clone: clones share the memory.
#[derive(Clone)]
pub struct Tensor {
    storage: Storage,
    /// First element, counted in elements of `dtype`.
    offset: usize,
    shape: Vec<usize>,
    dtype: DType,
}

#[derive(Clone)]
enum Storage {
    Host(Arc<HostBuffer>),
    Gpu(Arc<GpuBuffer>),
}

impl Tensor {
    /// A tensor whose content is unspecified: whoever takes one writes all of it.
    ///
    /// # Errors
    /// A `Device` error where the device's memory is full.
    pub fn empty(device: Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        let storage = match device.gpu()? {
            None => Storage::Host(Arc::new(HostBuffer::take(bytes))),
            Some(gpu) => Storage::Gpu(Arc::new(gpu.take(bytes)?)),
        };
        Ok(Tensor { storage, offset: 0, shape: shape.to_vec(), dtype })
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn zeros(device: Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let mut tensor = Tensor::empty(device, dtype, shape)?;
        tensor.clear()?;
        Ok(tensor)
    }

    /// Sets every element to zero.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// While another tensor shares the memory.
    pub fn clear(&mut self) -> Result<()> {
        let range = self.byte_range();
        match self.gpu() {
            None => self.sole().bytes_mut()[range].fill(0),
            Some(gpu) => gpu.driver().clear(self.address_mut(), range.len())?,
        }
        Ok(())
    }

    /// A host tensor with these `f32` values.
    ///
    /// # Errors
    /// If `data` does not have as many values as the shape.
    pub fn from_f32(data: &[f32], shape: &[usize]) -> Result<Tensor> {
        check_len(data.len(), shape)?;
        let mut tensor = Tensor::empty(Device::Cpu, DType::F32, shape)?;
        tensor.f32_mut().copy_from_slice(data);
        Ok(tensor)
    }

    /// A host tensor with these `u32` values (token ids).
    ///
    /// # Errors
    /// If `data` does not have as many values as the shape.
    pub fn from_u32(data: &[u32], shape: &[usize]) -> Result<Tensor> {
        check_len(data.len(), shape)?;
        let mut tensor = Tensor::empty(Device::Cpu, DType::U32, shape)?;
        tensor.u32_mut().copy_from_slice(data);
        Ok(tensor)
    }

    /// The extents of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of rows when all axes but the last are taken together.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }

    /// Extent of the last axis.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the memory is.
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::Host(_) => Device::Cpu,
            Storage::Gpu(buffer) => buffer.gpu().device(),
        }
    }

    /// The GPU that holds it; None in host memory.
    pub fn gpu(&self) -> Option<&'static Gpu> {
        match &self.storage {
            Storage::Host(_) => None,
            Storage::Gpu(buffer) => Some(buffer.gpu()),
        }
    }

    /// The same memory under another shape of as many elements.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), self.len(), "reshape {:?} to {shape:?}", self.shape);
        Tensor { shape: shape.to_vec(), ..self.clone() }
    }

    /// A part of the memory, `shape` elements from element `first` on. It shares the memory: while it lives, neither can
    /// be written.
    ///
    /// # Panics
    /// If the part reaches past the end.
    pub fn view(&self, first: usize, shape: &[usize]) -> Tensor {
        let len: usize = shape.iter().product();
        assert!(first + len <= self.len(), "a view of {first}..{} in {} elements", first + len, self.len());
        Tensor { offset: self.offset + first, shape: shape.to_vec(), ..self.clone() }
    }

    /// Whether this is the only owner of the memory, so that it may be written.
    pub fn is_sole(&self) -> bool {
        1 == match &self.storage {
            Storage::Host(buffer) => Arc::strong_count(buffer),
            Storage::Gpu(buffer) => Arc::strong_count(buffer),
        }
    }

    /// This tensor if it owns its memory alone, else a copy: for operators that work in place.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn into_sole(self) -> Result<Tensor> {
        if self.is_sole() {
            return Ok(self);
        }
        let mut copy = Tensor::empty(self.device(), self.dtype, &self.shape)?;
        copy.copy_from(&self)?;
        Ok(copy)
    }

    /// Takes over the elements of `from`, which lie on the same device or on another one; shapes may differ, the number of
    /// elements and the dtype not.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If lengths or dtypes differ, or while another tensor shares this one's memory.
    pub fn copy_from(&mut self, from: &Tensor) -> Result<()> {
        assert_eq!((self.len(), self.dtype), (from.len(), from.dtype), "copy of another length or dtype");
        let (source, target) = (from.byte_range(), self.byte_range());
        match (from.gpu(), self.gpu()) {
            (None, None) => self.sole().bytes_mut()[target].copy_from_slice(&from.host().bytes()[source]),
            (None, Some(gpu)) => gpu.driver().upload(self.address_mut(), &from.host().bytes()[source])?,
            (Some(gpu), None) => gpu.driver().download(&mut self.sole().bytes_mut()[target], from.address())?,
            (Some(gpu), Some(here)) if gpu.device() == here.device() => {
                gpu.driver().copy(self.address_mut(), from.address(), source.len())?;
            }
            (Some(_), Some(_)) => {
                let host = from.to_device(Device::Cpu)?;
                self.copy_from(&host)?;
            }
        }
        Ok(())
    }

    /// Writes the elements of `part`, on the same device, to the elements from `first` on.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If they reach past the end, dtypes or devices differ, or while another tensor shares this one's memory.
    pub fn copy_part(&mut self, first: usize, part: &Tensor) -> Result<()> {
        assert_eq!((self.dtype, self.device()), (part.dtype, part.device()), "copy of another dtype or device");
        assert!(first + part.len() <= self.len(), "{} elements from {first} on in {}", part.len(), self.len());
        let (bytes, source) = (first * self.dtype.size(), part.byte_range());
        match self.gpu() {
            None => {
                let start = self.byte_range().start + bytes;
                self.sole().bytes_mut()[start..start + source.len()].copy_from_slice(&part.host().bytes()[source]);
                Ok(())
            }
            Some(gpu) => gpu.driver().copy(self.address_mut() + bytes as u64, part.address(), source.len()),
        }
    }

    /// This tensor on a device: itself if it is there already, else a copy. From a GPU to the host it waits.
    ///
    /// # Errors
    /// If memory cannot be had, or the device fails.
    pub fn to_device(&self, device: Device) -> Result<Tensor> {
        if device == self.device() {
            return Ok(self.clone());
        }
        let mut copy = Tensor::empty(device, self.dtype, &self.shape)?;
        copy.copy_from(self)?;
        Ok(copy)
    }

    /// The values as `f32` in host memory, whatever the dtype and device.
    ///
    /// # Errors
    /// If the device fails, or for token ids.
    pub fn to_vec_f32(&self) -> Result<Vec<f32>> {
        Ok(self.to_device(Device::Cpu)?.to_dtype(DType::F32)?.f32().to_vec())
    }

    /// The device address of the first element, to be read.
    ///
    /// # Panics
    /// In host memory.
    pub fn address(&self) -> u64 {
        match &self.storage {
            Storage::Gpu(buffer) => buffer.address() + (self.offset * self.dtype.size()) as u64,
            Storage::Host(_) => panic!("a host tensor was given to a GPU"),
        }
    }

    /// The device address of the first element, to be written.
    ///
    /// # Panics
    /// In host memory, or while another tensor shares the memory.
    pub fn address_mut(&mut self) -> u64 {
        assert!(self.is_sole(), "a tensor was written while its memory was shared");
        self.address()
    }

    /// The values, where they are `f32` in host memory.
    ///
    /// # Panics
    /// On another dtype.
    pub fn f32(&self) -> &[f32] {
        self.values()
    }

    /// The values, to be changed.
    ///
    /// # Panics
    /// On another dtype, or while another tensor shares the memory.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        self.values_mut()
    }

    /// The values in host memory, where they are of the type `E`.
    ///
    /// # Panics
    /// On another dtype.
    pub fn values<E: Element>(&self) -> &[E] {
        assert_eq!(self.dtype, E::DTYPE, "the dtype that is read");
        bytemuck::cast_slice(&self.host().bytes()[self.byte_range()])
    }

    /// The values, to be changed.
    ///
    /// # Panics
    /// On another dtype, or while another tensor shares the memory.
    pub fn values_mut<E: Element>(&mut self) -> &mut [E] {
        assert_eq!(self.dtype, E::DTYPE, "the dtype that is written");
        let range = self.byte_range();
        bytemuck::cast_slice_mut(&mut self.sole().bytes_mut()[range])
    }

    /// The values, where they are `u32` in host memory.
    ///
    /// # Panics
    /// On another dtype.
    pub fn u32(&self) -> &[u32] {
        assert_eq!(self.dtype, DType::U32, "read as u32");
        bytemuck::cast_slice(&self.host().bytes()[self.byte_range()])
    }

    /// The values, to be changed.
    ///
    /// # Panics
    /// On another dtype, or while another tensor shares the memory.
    pub fn u32_mut(&mut self) -> &mut [u32] {
        assert_eq!(self.dtype, DType::U32, "written as u32");
        let range = self.byte_range();
        bytemuck::cast_slice_mut(&mut self.sole().bytes_mut()[range])
    }

    /// A copy in another floating dtype, rounded to nearest even. The same tensor if the dtype is the same already.
    ///
    /// # Errors
    /// If either dtype is not floating, or the device fails.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        let mut out = Tensor::empty(self.device(), dtype, &self.shape)?;
        out.cast_from(self)?;
        Ok(out)
    }

    /// Takes over the elements of `from`, which is of another floating dtype on the same device, rounded to nearest even.
    ///
    /// # Errors
    /// As [`Tensor::to_dtype`].
    ///
    /// # Panics
    /// If lengths or devices differ, or while another tensor shares this one's memory.
    pub fn cast_from(&mut self, from: &Tensor) -> Result<()> {
        assert_eq!((self.len(), self.device()), (from.len(), from.device()), "cast of another length or device");
        let (source, target) = (from.byte_range(), self.byte_range());
        match self.gpu() {
            None => match (from.dtype, self.dtype) {
                (DType::F32, DType::BF16) => element::convert::<f32, bf16>(self.values_mut(), from.values()),
                (DType::BF16, DType::F32) => element::convert::<bf16, f32>(self.values_mut(), from.values()),
                (_, dtype) => {
                    convert(&from.host().bytes()[source], from.dtype, &mut self.sole().bytes_mut()[target], dtype)?;
                }
            },
            Some(gpu) => {
                let kernel = format!("cast_{}_to_{}", from.dtype.suffix(), self.dtype.suffix());
                let arguments =
                    [Arg::Pointer(self.address_mut()), Arg::Pointer(from.address()), Arg::U64(self.len() as u64)];
                // Eight elements a thread, whichever side is narrower.
                gpu.launch(&kernel, per_element(self.len(), DType::F16), &arguments)?;
            }
        }
        Ok(())
    }

    /// Adds `term`, element by element.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If lengths, dtypes or devices differ, on another host dtype than f32 and bf16, or while another tensor shares this
    /// one's memory.
    pub fn add_assign(&mut self, term: &Tensor) -> Result<()> {
        assert_eq!((self.len(), self.dtype), (term.len(), term.dtype), "lengths and dtypes of a sum");
        if let Some(gpu) = self.gpu() {
            return add_at(gpu, self.address_mut(), term.address(), self.len(), self.dtype);
        }
        match self.dtype {
            DType::BF16 => element::add_assign::<bf16>(self.values_mut(), term.values()),
            _ => element::add_assign::<f32>(self.values_mut(), term.values()),
        }
        Ok(())
    }

    fn byte_range(&self) -> std::ops::Range<usize> {
        let first = self.offset * self.dtype.size();
        first..first + self.len() * self.dtype.size()
    }

    fn host(&self) -> &HostBuffer {
        match &self.storage {
            Storage::Host(buffer) => buffer,
            Storage::Gpu(_) => panic!("a GPU's memory was read as host memory"),
        }
    }

    fn sole(&mut self) -> &mut HostBuffer {
        match &mut self.storage {
            Storage::Host(buffer) => Arc::get_mut(buffer).expect("a tensor was written while its memory was shared"),
            Storage::Gpu(_) => panic!("a GPU's memory was written as host memory"),
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?}, {:?}, {})", self.dtype, self.shape, self.device())
    }
}

/// Threads of a block of an element-wise kernel.
const THREADS: usize = 256;

/// The launch of an element-wise kernel over `len` elements of a dtype: 16 bytes a thread.
pub fn per_element(len: usize, dtype: DType) -> Geometry {
    Geometry::linear(len.div_ceil(THREADS * 16 / dtype.size()), THREADS)
}

/// Adds `len` numbers of a GPU's memory to as many others, in place: [`Tensor::add_assign`] by addresses, for parts of
/// buffers.
///
/// # Errors
/// If the device fails.
pub fn add_at(gpu: &Gpu, sum: u64, term: u64, len: usize, dtype: DType) -> Result<()> {
    let arguments = [Arg::Pointer(sum), Arg::Pointer(term), Arg::U64(len as u64)];
    gpu.launch(&format!("reduce_add_{}", dtype.suffix()), per_element(len, dtype), &arguments)
}

fn check_len(len: usize, shape: &[usize]) -> Result<()> {
    if len == shape.iter().product::<usize>() {
        return Ok(());
    }
    Err(Error::Training(format!("{len} values do not fill a tensor of shape {shape:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_share_and_writing_needs_sole_ownership() {
        let mut tensor = Tensor::from_f32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]).unwrap();
        let view = tensor.view(3, &[3]);
        assert_eq!(view.f32(), [4.0, 5.0, 6.0]);
        let copy = view.clone().into_sole().unwrap();
        drop(view);
        tensor.f32_mut()[4] = 50.0;
        assert_eq!(tensor.f32()[4], 50.0);
        assert_eq!(copy.f32()[1], 5.0);
    }

    #[test]
    #[should_panic(expected = "shared")]
    fn writing_shared_memory_panics() {
        let mut tensor = Tensor::from_f32(&[1.0], &[1]).unwrap();
        let _clone = tensor.clone();
        tensor.f32_mut()[0] = 2.0;
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(Tensor::from_f32(&[1.0; 5], &[2, 3]).is_err());
        assert_eq!(Tensor::zeros(Device::Cpu, DType::U32, &[2, 2]).unwrap().u32(), [0; 4]);
    }

    #[test]
    fn casts_round_to_nearest_even() {
        let tensor = Tensor::from_f32(&[1.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, f32::INFINITY], &[4]).unwrap();
        let back = tensor.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        // bf16 has 8 bits of precision: 1 + 1/256 lies half way and goes to the even 1.0, 1 + 3/256 to 1 + 4/256.
        assert_eq!(back.f32(), [1.0, 1.0, 1.0 + 4.0 / 256.0, f32::INFINITY]);
        assert!(tensor.to_dtype(DType::U32).is_err());
    }
}
