//! Candidates on CUDA.

use super::{CAPACITY, Candidates, STRIPS, WANTED, sorted};
use crate::device::launch::{Arg, Geometry};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::tensor::Tensor;

/// 32-bit words of a row's head: two f64, two f32, two u32.
const HEAD: usize = 8;

/// Where the results of some rows stand: one block of memory, so that one copy brings them to the host.
pub struct Selection {
    /// Heads, then ids, then values; as u32.
    memory: Tensor,
    rows: usize,
}

impl Selection {
    /// Memory for the candidates of `rows` rows.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(gpu: &'static Gpu, rows: usize) -> Result<Selection> {
        let words = rows * (HEAD + 2 * CAPACITY);
        Ok(Selection { memory: Tensor::empty(gpu.device(), DType::U32, &[words])?, rows })
    }

    /// Starts the selection; [`Selection::read`] waits for it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn start(
        &mut self,
        gpu: &Gpu,
        logits: &Tensor,
        vocabulary: usize,
        inverse_temperatures: &Tensor,
    ) -> Result<()> {
        assert_eq!((logits.rows(), logits.dtype()), (self.rows, DType::F32), "candidates: rows of f32");
        let heads = self.memory.address_mut();
        let ids = heads + (4 * self.rows * HEAD) as u64;
        let values = ids + (4 * self.rows * CAPACITY) as u64;
        let mut arguments =
            [heads, ids, values, logits.address(), inverse_temperatures.address()].map(Arg::Pointer).to_vec();
        arguments.extend([vocabulary, logits.last(), WANTED, CAPACITY].map(|number| Arg::U32(number as u32)));
        gpu.launch("candidates_select", Geometry::linear(self.rows, STRIPS), &arguments)
    }

    /// The candidates of the rows that were selected last.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(&self) -> Result<Vec<Candidates>> {
        let memory = self.memory.to_device(crate::device::Device::Cpu)?;
        let (heads, lists) = memory.u32().split_at(self.rows * HEAD);
        let (ids, values) = lists.split_at(self.rows * CAPACITY);
        let double = |words: &[u32]| f64::from_bits(u64::from(words[1]) << 32 | u64::from(words[0]));
        let rows = heads.chunks_exact(HEAD).zip(ids.chunks_exact(CAPACITY).zip(values.chunks_exact(CAPACITY)));
        Ok(rows
            .map(|(head, (ids, values))| {
                let (max, count) = (f32::from_bits(head[4]), head[6] as usize);
                let whole = count <= CAPACITY;
                let listed = if whole { count } else { 0 };
                let list = ids[..listed].iter().zip(values).map(|(&id, &bits)| (id, f32::from_bits(bits))).collect();
                Candidates { max, sum: double(head), tempered: double(&head[2..]), list: sorted(list), whole }
            })
            .collect())
    }

    /// [`Selection::start`] and [`Selection::read`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn select(
        mut self,
        gpu: &Gpu,
        logits: &Tensor,
        vocabulary: usize,
        inverse_temperatures: &Tensor,
    ) -> Result<Vec<Candidates>> {
        self.start(gpu, logits, vocabulary, inverse_temperatures)?;
        self.read()
    }
}
