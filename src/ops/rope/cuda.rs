//! Rotary positions on CUDA.

use super::cpu::Turn;
use super::{Heads, RopeTable};
use crate::device::Gpu;
use crate::device::launch::{Arg, Geometry};
use crate::error::Result;
use crate::ops::documents::Documents;
use crate::ops::launch::Past;
use crate::tensor::Tensor;

const THREADS: usize = 256;

/// See [`super::cpu::rotate`].
///
/// # Errors
/// If memory or the device fails.
pub fn rotate(
    gpu: &Gpu,
    y: &mut Tensor,
    heads: Heads,
    table: &RopeTable,
    from: Past<'_>,
    documents: Option<&Documents>,
    turn: Turn,
) -> Result<()> {
    let (_, time) = heads.batch_and_time(y.shape());
    let (cos, sin) = table.on(gpu.device())?;
    let (first_position, pasts) = from.arguments();
    let (rows, rotated) = (y.rows(), heads.n_head + heads.n_kv_head);
    let direction = match turn {
        Turn::Forward => 1.0,
        Turn::Back => -1.0,
    };
    let arguments = [
        Arg::Pointer(y.address_mut()),
        Arg::Pointer(cos.address()),
        Arg::Pointer(sin.address()),
        Arg::U32(rows as u32),
        Arg::U32(time as u32),
        Arg::U32(rotated as u32),
        Arg::U32(heads.packed() as u32),
        Arg::U32(heads.head_dim as u32),
        first_position,
        Arg::F32(direction),
        pasts,
        Arg::Pointer(documents.map_or(0, |documents| documents.tensor().address())),
    ];
    let packs = rows * rotated * (heads.head_dim / 2).div_ceil(16 / y.dtype().size());
    let geometry = Geometry::linear(packs.div_ceil(THREADS), THREADS);
    gpu.launch(&format!("rope_rotate_{}", y.dtype().suffix()), geometry, &arguments)
}
