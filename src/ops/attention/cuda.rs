//! Attention on CUDA: which kernels, and how they are launched. What they compute stands in `kernels/attention*.cu`.
//!
//! Heads of 64 and 128 in bf16 and f16 run on tensor cores; every other head up to 256, and f32, on a slower path of
//! plain f32 arithmetic ([`is_fast`] tells which).

use super::decode::Cached;
use super::{AttentionDropout, Heads};
use crate::device::launch::{Arg, Geometry};
use crate::device::{DType, Gpu};
use crate::error::{Error, Result};
use crate::ops::documents::Documents;
use crate::ops::launch::{Past, mask_arguments};
use crate::random::Mask;
use crate::tensor::Tensor;

/// Bytes of keys and values that are worked on together, so that they stay in the second-level cache.
const TOGETHER: usize = 16 << 20;
/// Shared memory that every GPU from compute capability 8.0 on gives a block.
const SHARED: usize = 99 << 10;
/// The largest head of the slow path.
const MAX_HEAD_DIM: usize = 256;

/// Whether attention of such heads runs on tensor cores.
pub fn is_fast(head_dim: usize, dtype: DType) -> bool {
    matches!(head_dim, 64 | 128) && dtype != DType::F32
}

/// What keeps a query from seeing keys, besides their order.
#[derive(Clone, Copy, Debug)]
pub struct Masking<'s> {
    /// Dropout.
    pub dropout: Option<AttentionDropout<'s>>,
    /// Documents.
    pub documents: Option<&'s Documents>,
}

/// [`Masking`] as kernels take it.
#[derive(Default)]
struct OnDevice<'h> {
    /// The mask, and the sequences' indices on the device.
    dropout: Option<(Mask, Tensor)>,
    /// Where documents begin, on the device.
    begins: Option<&'h Tensor>,
}

impl<'h> Masking<'h> {
    fn upload(&self, gpu: &'static Gpu) -> Result<OnDevice<'h>> {
        let dropout = match &self.dropout {
            None => None,
            Some(AttentionDropout { mask, sequences }) => {
                let host = Tensor::from_u32(sequences, &[sequences.len()])?;
                Some((*mask, host.to_device(gpu.device())?))
            }
        };
        Ok(OnDevice { dropout, begins: self.documents.map(Documents::tensor) })
    }
}

/// Everything a launch is computed from.
struct Plan {
    b: usize,
    t: usize,
    heads: Heads,
    dtype: DType,
    scale: f32,
}

impl Plan {
    fn new(qkv: &Tensor, heads: Heads) -> Result<Plan> {
        let (b, t) = heads.batch_and_time(qkv.shape());
        if heads.head_dim > MAX_HEAD_DIM {
            return Err(Error::Device(format!(
                "attention on a GPU takes heads of up to {MAX_HEAD_DIM} elements, and model.head_dim is {}; use more and \
                 smaller heads, or --device cpu",
                heads.head_dim
            )));
        }
        let scale = 1.0 / (heads.head_dim as f32).sqrt();
        Ok(Plan { b, t, heads, dtype: qkv.dtype(), scale })
    }

    fn is_fast(&self) -> bool {
        is_fast(self.heads.head_dim, self.dtype)
    }

    /// Whether a pass runs on tensor cores: there is no instance with both dropout and documents.
    fn takes_fast(&self, masking: &OnDevice<'_>) -> bool {
        self.is_fast() && (masking.dropout.is_none() || masking.begins.is_none())
    }

    /// The end of the argument lists of the fast kernels: extents, scale, dropout or documents.
    fn fast_tail(&self, heads: usize, masking: &OnDevice<'_>) -> Vec<Arg> {
        let Heads { n_head, n_kv_head, head_dim } = self.heads;
        let bytes = 2 * self.t * head_dim * self.dtype.size();
        let at_once = (TOGETHER / bytes).clamp(1, heads);
        let mut arguments = vec![
            Arg::U32(self.t as u32),
            Arg::U32(n_head as u32),
            Arg::U32(n_kv_head as u32),
            Arg::U32(heads as u32),
            Arg::U32(at_once as u32),
            Arg::F32(self.scale),
        ];
        if let Some((mask, sequences)) = &masking.dropout {
            arguments.push(Arg::Pointer(sequences.address()));
            arguments.extend(mask_arguments(mask));
        }
        arguments.extend(masking.begins.map(|begins| Arg::Pointer(begins.address())));
        arguments
    }

    fn fast_kernel(&self, what: &str, masking: &OnDevice<'_>) -> String {
        let kind = match (&masking.dropout, masking.begins) {
            (Some(_), _) => "_dropout",
            (None, Some(_)) => "_documents",
            (None, None) => "",
        };
        format!("attention_{what}_d{}{kind}_{}", self.heads.head_dim, self.dtype.suffix())
    }

    /// The end of the argument lists of the generic kernels: scale, dropout, documents.
    fn generic_tail(&self, masking: &OnDevice<'_>) -> Vec<Arg> {
        let mut arguments = vec![Arg::F32(self.scale)];
        match &masking.dropout {
            Some((mask, sequences)) => {
                arguments.push(Arg::Pointer(sequences.address()));
                arguments.extend(mask_arguments(mask));
            }
            None => {
                arguments.push(Arg::Pointer(0));
                arguments.extend([Arg::U32(0); 5]);
                arguments.push(Arg::F32(1.0));
            }
        }
        arguments.push(Arg::Pointer(masking.begins.map_or(0, Tensor::address)));
        arguments
    }

    /// Name and launch of a generic kernel over `heads` heads of `rows` rows. `shared` gives the bytes for a tile.
    fn generic(&self, what: &str, heads: usize, rows: usize, shared: impl Fn(usize) -> usize) -> (String, Geometry) {
        let tile = if shared(64) <= SHARED { 64 } else { 32 };
        let geometry = Geometry {
            grid: [(heads * rows.div_ceil(tile)) as u32, 1, 1],
            block: [256, 1, 1],
            shared_bytes: shared(tile) as u32,
        };
        (format!("attention_generic_{what}_{tile}_{}", self.dtype.suffix()), geometry)
    }

    /// A head's elements in shared memory: rounded up so that rows can be read four at a time.
    fn padded(&self) -> usize {
        self.heads.head_dim.next_multiple_of(4)
    }
}

fn fast_geometry(blocks: usize, shared_bytes: usize) -> Geometry {
    Geometry { grid: [blocks as u32, 1, 1], block: [128, 1, 1], shared_bytes: shared_bytes as u32 }
}

/// Where keys and values lie: the first of each, and the distance in elements from key to key, head to head and sequence
/// to sequence.
struct Source {
    keys: u64,
    values: u64,
    strides: [usize; 3],
    past: usize,
}

fn generic_forward(
    gpu: &Gpu,
    plan: &Plan,
    out: &mut Tensor,
    lse: u64,
    qkv: &Tensor,
    from: &Source,
    masking: &OnDevice<'_>,
) -> Result<()> {
    let Heads { n_head, n_kv_head, head_dim } = plan.heads;
    let (heads, padded) = (plan.b * n_head, plan.padded());
    let shared = |tile: usize| 4 * (tile + 4) * (2 * padded + tile);
    let (kernel, geometry) = plan.generic("forward", heads, plan.t, shared);
    let mut arguments = vec![
        Arg::Pointer(out.address_mut()),
        Arg::Pointer(lse),
        Arg::Pointer(qkv.address()),
        Arg::Pointer(from.keys),
        Arg::Pointer(from.values),
    ];
    arguments.extend(from.strides.map(|stride| Arg::U64(stride as u64)));
    arguments.extend([plan.t, from.past, n_head, n_kv_head, head_dim, heads].map(|number| Arg::U32(number as u32)));
    arguments.extend(plan.generic_tail(masking));
    gpu.launch(&kernel, geometry, &arguments)
}

/// See [`super::forward`].
///
/// # Errors
/// If memory or the device fails, or for heads larger than the kernels take.
pub fn forward(
    gpu: &'static Gpu,
    out: &mut Tensor,
    lse: &mut Tensor,
    qkv: &Tensor,
    heads: Heads,
    masking: Masking<'_>,
) -> Result<()> {
    let plan = Plan::new(qkv, heads)?;
    let masking = &masking.upload(gpu)?;
    let Heads { n_head, n_kv_head, head_dim } = heads;
    if plan.takes_fast(masking) {
        let (count, keys) = (plan.b * n_head, if head_dim == 64 { 64 } else { 32 });
        let rows = if head_dim == 128 && masking.dropout.is_some() { 64 } else { 128 };
        let geometry = fast_geometry(count * plan.t.div_ceil(rows), (rows + 4 * keys) * head_dim * 2);
        let mut arguments =
            vec![Arg::Pointer(out.address_mut()), Arg::Pointer(lse.address_mut()), Arg::Pointer(qkv.address())];
        arguments.extend(plan.fast_tail(count, masking));
        return gpu.launch(&plan.fast_kernel("forward", masking), geometry, &arguments);
    }
    let at = |element: usize| qkv.address() + (element * plan.dtype.size()) as u64;
    let row = heads.packed();
    let from = Source {
        keys: at(n_head * head_dim),
        values: at((n_head + n_kv_head) * head_dim),
        strides: [row, head_dim, plan.t * row],
        past: 0,
    };
    generic_forward(gpu, &plan, out, lse.address_mut(), qkv, &from, masking)
}

/// See [`super::forward_cached`].
///
/// # Errors
/// If memory or the device fails, or for heads larger than the kernels take.
pub fn forward_cached(
    gpu: &'static Gpu,
    out: &mut Tensor,
    qkv: &Tensor,
    keys: &mut Tensor,
    values: &mut Tensor,
    heads: Heads,
    (first, past): (usize, usize),
) -> Result<()> {
    let plan = Plan::new(qkv, heads)?;
    let Heads { n_head, n_kv_head, head_dim } = heads;
    let cache = Cached::new(keys, values, first);
    cache.append(gpu, qkv, heads, Past::Same(past))?;
    if plan.t == 1 {
        return cache.decode(gpu, out, qkv, heads, Past::Same(past), past + 1);
    }
    if past == 0 && plan.is_fast() {
        // Nothing lies in the cache that the packed rows do not hold.
        let mut lse = Tensor::empty(gpu.device(), DType::F32, &[plan.b, n_head, plan.t])?;
        return forward(gpu, out, &mut lse, qkv, heads, Masking { dropout: None, documents: None });
    }
    let strides = [head_dim, cache.capacity * head_dim, n_kv_head * cache.capacity * head_dim];
    let from = Source { keys: cache.keys, values: cache.values, strides, past };
    generic_forward(gpu, &plan, out, 0, qkv, &from, &OnDevice::default())
}

/// What the way back reads besides the gradient of its output.
pub struct Saved<'t> {
    /// The packed rows.
    pub qkv: &'t Tensor,
    /// The output.
    pub out: &'t Tensor,
    /// The log-sum-exp of the scores.
    pub lse: &'t Tensor,
}

/// Writes the gradient of the packed rows.
///
/// # Errors
/// If memory or the device fails.
pub fn backward(
    gpu: &'static Gpu,
    dqkv: &mut Tensor,
    dout: &Tensor,
    saved: &Saved<'_>,
    heads: Heads,
    masking: Masking<'_>,
) -> Result<()> {
    let plan = Plan::new(saved.qkv, heads)?;
    let masking = &masking.upload(gpu)?;
    let Heads { n_head, n_kv_head, head_dim } = heads;
    let (queries, keys) = (plan.b * n_head, plan.b * n_kv_head);
    let mut delta = Tensor::empty(gpu.device(), DType::F32, &[plan.b, n_head, plan.t])?;
    let row_sums = delta.address_mut();
    let mut arguments = vec![Arg::Pointer(row_sums), Arg::Pointer(dout.address()), Arg::Pointer(saved.out.address())];
    arguments.extend([plan.b, plan.t, n_head, head_dim].map(|number| Arg::U32(number as u32)));
    let kernel = format!("attention_delta_{}", plan.dtype.suffix());
    gpu.launch(&kernel, Geometry::linear((queries * plan.t).div_ceil(32), 256), &arguments)?;

    let first = [
        Arg::Pointer(dqkv.address_mut()),
        Arg::Pointer(dout.address()),
        Arg::Pointer(saved.qkv.address()),
        Arg::Pointer(saved.lse.address()),
        Arg::Pointer(row_sums),
    ];
    let with = |tail: Vec<Arg>| first.iter().copied().chain(tail).collect::<Vec<Arg>>();
    if plan.takes_fast(masking) {
        let shared = |rows: usize| (2 * rows + 4 * 32) * head_dim * 2;
        let plain = masking.dropout.is_none() && masking.begins.is_none();
        let rows = if head_dim == 64 && plain { 128 } else { 64 };
        let kernel = plan.fast_kernel("backward_keys", masking);
        let arguments = with(plan.fast_tail(keys, masking));
        let geometry = fast_geometry(keys * plan.t.div_ceil(rows), shared(rows) + 512);
        gpu.launch(&kernel, geometry, &arguments)?;
        let rows = if head_dim == 64 { 128 } else { 64 };
        let kernel = plan.fast_kernel("backward_queries", masking);
        let arguments = with(plan.fast_tail(queries, masking));
        let geometry = fast_geometry(queries * plan.t.div_ceil(rows), shared(rows));
        return gpu.launch(&kernel, geometry, &arguments);
    }
    let padded = plan.padded();
    let extents = |heads: usize| {
        let mut tail: Vec<Arg> =
            [plan.t, n_head, n_kv_head, head_dim, heads].map(|number| Arg::U32(number as u32)).to_vec();
        tail.extend(plan.generic_tail(masking));
        tail
    };
    let shared = |tile: usize| 4 * (tile + 4) * (4 * padded + 2 * tile);
    let (kernel, geometry) = plan.generic("backward_keys", keys, plan.t, shared);
    gpu.launch(&kernel, geometry, &with(extents(keys)))?;
    let shared = |tile: usize| 4 * (tile + 4) * (4 * padded + tile);
    let (kernel, geometry) = plan.generic("backward_queries", queries, plan.t, shared);
    gpu.launch(&kernel, geometry, &with(extents(queries)))
}
