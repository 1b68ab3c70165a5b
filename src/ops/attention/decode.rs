//! Attention over the key-value cache on CUDA: the writing of the cache, and one new query for each sequence. See
//! `kernels/attention_decode.cu`.

use super::Heads;
use crate::device::launch::{Arg, Geometry};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::ops::launch::Past;
use crate::tensor::Tensor;

/// Keys of one part of a decoding step; part of the definition, because it fixes the order of the sums.
pub const SPLIT: usize = 256;
const THREADS: usize = 128;

/// The cache [S, K, C, D] from one of its sequences on, as addresses.
pub struct Cached {
    /// Keys of the first sequence.
    pub keys: u64,
    /// Its values.
    pub values: u64,
    /// C: positions of a sequence.
    pub capacity: usize,
}

impl Cached {
    /// The cache from sequence `first` on.
    pub fn new(keys: &mut Tensor, values: &mut Tensor, first: usize) -> Cached {
        let shape = keys.shape();
        let (capacity, offset) = (shape[2], (first * shape[1] * shape[2] * shape[3] * keys.dtype().size()) as u64);
        Cached { keys: keys.address_mut() + offset, values: values.address_mut() + offset, capacity }
    }

    /// Writes the keys and values of the rows `qkv` [B, T, (H + 2K) * D] behind what each sequence has.
    ///
    /// # Errors
    /// If the device fails.
    pub fn append(&self, gpu: &Gpu, qkv: &Tensor, heads: Heads, past: Past<'_>) -> Result<()> {
        let (b, t) = heads.batch_and_time(qkv.shape());
        let (same, own) = past.arguments();
        let number = |number: usize| Arg::U32(number as u32);
        let arguments = [
            Arg::Pointer(self.keys),
            Arg::Pointer(self.values),
            Arg::Pointer(qkv.address()),
            number(t),
            same,
            number(self.capacity),
            number(heads.n_head),
            number(heads.n_kv_head),
            number(heads.head_dim),
            own,
        ];
        gpu.launch(
            &format!("attention_kv_append_{}", qkv.dtype().suffix()),
            Geometry::linear(b * t, THREADS),
            &arguments,
        )
    }

    /// Attention of one query of each sequence, `qkv` [B, 1, (H + 2K) * D], over its keys, the newest of which has been
    /// appended; writes `out` [B, 1, H * D]. No sequence has more than `longest` keys. Parts of the cache are worked on in
    /// parallel, and their sums added in order: the result does not depend on `longest`.
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn decode(
        &self,
        gpu: &'static Gpu,
        out: &mut Tensor,
        qkv: &Tensor,
        heads: Heads,
        past: Past<'_>,
        longest: usize,
    ) -> Result<()> {
        let Heads { n_head, n_kv_head, head_dim } = heads;
        let (b, splits, group) = (qkv.shape()[0], longest.div_ceil(SPLIT), heads.group());
        let mut partial = Tensor::empty(gpu.device(), DType::F32, &[b, n_head, splits, head_dim + 2])?;
        let sums = partial.address_mut();
        let (same, own) = past.arguments();
        let number = |number: usize| Arg::U32(number as u32);
        let arguments = [
            Arg::Pointer(sums),
            Arg::Pointer(qkv.address()),
            Arg::Pointer(self.keys),
            Arg::Pointer(self.values),
            same,
            number(self.capacity),
            number(SPLIT),
            number(n_head),
            number(n_kv_head),
            number(head_dim),
            Arg::F32(1.0 / (head_dim as f32).sqrt()),
            own,
        ];
        let geometry = Geometry {
            grid: [splits as u32, n_kv_head as u32, b as u32],
            block: [THREADS as u32, 1, 1],
            shared_bytes: (4 * (group * (head_dim + SPLIT) + THREADS * 8)) as u32,
        };
        let suffix = qkv.dtype().suffix();
        gpu.launch(&format!("attention_decode_{suffix}"), geometry, &arguments)?;
        let arguments = [
            Arg::Pointer(out.address_mut()),
            Arg::Pointer(sums),
            number(splits),
            number(head_dim),
            number(SPLIT),
            number(n_head),
            own,
        ];
        gpu.launch(&format!("attention_decode_combine_{suffix}"), Geometry::linear(b * n_head, THREADS), &arguments)
    }
}
