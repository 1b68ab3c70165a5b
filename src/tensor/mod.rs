//! `Tensor`: a typed, shaped, contiguous buffer on a device.
//!
//! Nothing clever: no strides, no broadcasting, no lazy evaluation. Operators work on plain slices, and this type carries
//! shape, dtype and shared ownership. Clones and views share memory; writing needs sole ownership and says so loudly
//! otherwise (`f32_mut` panics on shared memory, because that is our mistake and never the user's).

mod dtype;

pub use dtype::DType;

use std::sync::Arc;

use rayon::prelude::*;

use crate::device::Device;
use crate::device::pool::HostBuffer;
use crate::error::{Error, Result};

/// A contiguous buffer with a shape. Cheap to clone: clones share the memory.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<HostBuffer>,
    /// First element, counted in elements of `dtype`.
    offset: usize,
    shape: Vec<usize>,
    dtype: DType,
    device: Device,
}

impl Tensor {
    /// A tensor whose content is unspecified: whoever takes one writes all of it.
    ///
    /// # Errors
    /// A `Device` error where the device cannot hold tensors in this version.
    pub fn empty(device: Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        if device != Device::Cpu {
            return Err(crate::device::cuda::not_there("tensor"));
        }
        let bytes = shape.iter().product::<usize>() * dtype.size();
        Ok(Tensor { storage: Arc::new(HostBuffer::take(bytes)), offset: 0, shape: shape.to_vec(), dtype, device })
    }

    /// A tensor of zeros.
    pub fn zeros(device: Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let mut tensor = Tensor::empty(device, dtype, shape)?;
        let range = tensor.byte_range();
        tensor.sole().bytes_mut()[range].fill(0);
        Ok(tensor)
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
        self.device
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
        Arc::strong_count(&self.storage) == 1
    }

    /// This tensor if it owns its memory alone, else a copy: for operators that work in place.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn into_sole(self) -> Result<Tensor> {
        if self.is_sole() {
            return Ok(self);
        }
        let mut copy = Tensor::empty(self.device, self.dtype, &self.shape)?;
        let (from, to) = (self.byte_range(), copy.byte_range());
        copy.sole().bytes_mut()[to].copy_from_slice(&self.storage.bytes()[from]);
        Ok(copy)
    }

    /// The values, where they are `f32` in host memory.
    ///
    /// # Panics
    /// On another dtype.
    pub fn f32(&self) -> &[f32] {
        assert_eq!(self.dtype, DType::F32, "read as f32");
        bytemuck::cast_slice(&self.storage.bytes()[self.byte_range()])
    }

    /// The values, to be changed.
    ///
    /// # Panics
    /// On another dtype, or while another tensor shares the memory.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.dtype, DType::F32, "written as f32");
        let range = self.byte_range();
        bytemuck::cast_slice_mut(&mut self.sole().bytes_mut()[range])
    }

    /// The values, where they are `u32` in host memory.
    ///
    /// # Panics
    /// On another dtype.
    pub fn u32(&self) -> &[u32] {
        assert_eq!(self.dtype, DType::U32, "read as u32");
        bytemuck::cast_slice(&self.storage.bytes()[self.byte_range()])
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
    /// If either dtype is not floating.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        let mut out = Tensor::empty(self.device, dtype, &self.shape)?;
        let (from, to) = (self.byte_range(), out.byte_range());
        dtype::convert(&self.storage.bytes()[from], self.dtype, &mut out.sole().bytes_mut()[to], dtype)?;
        Ok(out)
    }

    /// Adds `term`, element by element.
    ///
    /// # Panics
    /// If the lengths differ, on another dtype than f32, or while another tensor shares this one's memory.
    pub fn add_assign(&mut self, term: &Tensor) {
        const CHUNK: usize = 1 << 14;
        assert_eq!(self.len(), term.len(), "lengths of a sum");
        self.f32_mut().par_chunks_mut(CHUNK).zip(term.f32().par_chunks(CHUNK)).for_each(|(sum, term)| {
            sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
        });
    }

    fn byte_range(&self) -> std::ops::Range<usize> {
        let first = self.offset * self.dtype.size();
        first..first + self.len() * self.dtype.size()
    }

    fn sole(&mut self) -> &mut HostBuffer {
        Arc::get_mut(&mut self.storage).expect("a tensor was written while its memory was shared")
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?}, {:?}, {})", self.dtype, self.shape, self.device)
    }
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
