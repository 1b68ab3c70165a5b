//! Rotary position embedding (Su et al., "RoFormer", 2021) in the rotate-half layout of Llama.
//!
//! In each query and key head, element `i` and element `i + D/2` are a point in the plane, turned by the angle
//! `position * theta^(-2i/D)`. A product of a rotated query and a rotated key then depends on their distance alone. Values
//! are not rotated. Nothing is saved for the way back: the gradient is turned back by the same angles.

pub mod cost;
pub mod cpu;
pub mod cuda;

use std::sync::{Arc, Mutex};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::math;
use crate::ops::documents::Documents;
use crate::ops::element::on_cpu;
use crate::ops::heads::Heads;
use crate::ops::launch::Past;
use crate::tape::{Backward, Context, Tape, Var, VarId};
use crate::tensor::{DType, Tensor};

/// Cosines and sines of all positions: [T, D/2] each, in host memory, with a copy on each GPU that has asked for one. Cheap
/// to clone.
#[derive(Clone, Debug)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
    copies: Arc<Mutex<Vec<(Tensor, Tensor)>>>,
}

impl RopeTable {
    /// The table of the positions `0..positions` for heads of `head_dim` elements. Angles, cosines and sines are computed
    /// in f64 and rounded once.
    ///
    /// # Errors
    /// If memory cannot be had.
    ///
    /// # Panics
    /// If `head_dim` is odd or 0.
    pub fn new(positions: usize, head_dim: usize, theta: f64) -> Result<RopeTable> {
        assert!(head_dim > 0 && head_dim.is_multiple_of(2), "rotary positions need an even head size, not {head_dim}");
        let half = head_dim / 2;
        let mut cos = Tensor::empty(Device::Cpu, DType::F32, &[positions, half])?;
        let mut sin = Tensor::empty(Device::Cpu, DType::F32, &[positions, half])?;
        let frequencies: Vec<f64> = (0..half).map(|i| math::powf(theta, -(2.0 * i as f64) / head_dim as f64)).collect();
        let rows = cos.f32_mut().chunks_exact_mut(half).zip(sin.f32_mut().chunks_exact_mut(half));
        for (position, (cos, sin)) in rows.enumerate() {
            for i in 0..half {
                let (s, c) = math::sin_cos(position as f64 * frequencies[i]);
                (cos[i], sin[i]) = (c as f32, s as f32);
            }
        }
        Ok(RopeTable { cos, sin, copies: Arc::default() })
    }

    /// Cosines and sines on a device.
    fn on(&self, device: Device) -> Result<(Tensor, Tensor)> {
        let mut copies = self.copies.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some(copy) = copies.iter().find(|(cos, _)| cos.device() == device) {
            return Ok(copy.clone());
        }
        let copy = (self.cos.to_device(device)?, self.sin.to_device(device)?);
        copies.push(copy.clone());
        Ok(copy)
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.cos.shape()[0]
    }

    /// The cosines, [T, D/2].
    pub fn cos(&self) -> &Tensor {
        &self.cos
    }

    /// The sines, [T, D/2].
    pub fn sin(&self) -> &Tensor {
        &self.sin
    }
}

/// Rotates the query and key heads of `qkv` [B, T, (H + 2K) * D]; row `t` of a sequence stands at position
/// `first_position + t`, or at its place within its document. `qkv`'s memory becomes the result's if it is not shared.
///
/// # Errors
/// If a position is beyond the table, or memory or the device fails.
///
/// # Panics
/// If the shapes do not fit.
pub fn rope(
    tape: &mut Tape<'_>,
    qkv: Var,
    heads: Heads,
    table: &RopeTable,
    first_position: usize,
    documents: Option<&Documents>,
) -> Result<Var> {
    let id = qkv.id();
    let at = Places { first_position, documents: documents.cloned() };
    let y = rotate(qkv.into_value(), heads, table, &at, cpu::Turn::Forward)?;
    Ok(tape.record(&[], y, || Box::new(Rope { id, heads, table: table.clone(), at })))
}

/// Where the rows stand.
struct Places {
    first_position: usize,
    documents: Option<Documents>,
}

fn rotate(qkv: Tensor, heads: Heads, table: &RopeTable, at: &Places, turn: cpu::Turn) -> Result<Tensor> {
    let first_position = at.first_position;
    let (_, t) = heads.batch_and_time(qkv.shape());
    let half = heads.head_dim / 2;
    assert_eq!((2 * half, half), (heads.head_dim, table.cos.last()), "rope: head size of the table");
    if first_position + t > table.positions() {
        return Err(Error::Training(format!(
            "positions {first_position} to {} are beyond the {} of the rotary table; shorten the text",
            first_position + t,
            table.positions()
        )));
    }
    let mut y = qkv.into_sole()?;
    if y.is_empty() {
        return Ok(y);
    }
    match y.gpu() {
        None => {
            let angles = first_position * half..(first_position + t) * half;
            let (cos, sin) = (&table.cos.f32()[angles.clone()], &table.sin.f32()[angles]);
            let positions = at.documents.as_ref().map(Documents::positions);
            on_cpu!(y.dtype(), E => {
                cpu::rotate::<E>(y.values_mut(), heads, cos, sin, positions.as_deref(), turn);
            });
        }
        Some(gpu) => {
            let from = Past::Same(first_position);
            cuda::rotate(gpu, &mut y, heads, table, from, at.documents.as_ref(), turn)?;
        }
    }
    Ok(y)
}

/// Rotates the query and key heads of one row of each sequence, `qkv` [B, 1, (H + 2K) * D], on a GPU: row `b` stands at
/// position `pasts[b]`, which the caller has checked.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// On the CPU.
pub fn rotate_each(qkv: Tensor, heads: Heads, table: &RopeTable, pasts: &Tensor) -> Result<Tensor> {
    let mut y = qkv.into_sole()?;
    let gpu = y.gpu().expect("a step of many sequences is for a GPU");
    cuda::rotate(gpu, &mut y, heads, table, Past::Own(pasts), None, cpu::Turn::Forward)?;
    Ok(y)
}

struct Rope {
    id: Option<VarId>,
    heads: Heads,
    table: RopeTable,
    at: Places,
}

impl Backward for Rope {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let dy = douts.pop().expect("one output");
        let dx = rotate(dy, self.heads, &self.table, &self.at, cpu::Turn::Back)?;
        context.add(self.id, dx)
    }
}
