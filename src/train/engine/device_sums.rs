//! Sums over ranks whose gradients lie on GPUs: the ordered tree of [`crate::dist::ordered`], with additions on the device.
//!
//! What is exchanged goes by NCCL, in the order of the engine's own stream. A device that is none of NVIDIA's (the emulator
//! of the tests) goes by way of the host and the ranks' own connections, with the same bits.

use std::process::exit;
use std::sync::Arc;

use super::Team;
use crate::checkpoint::arena_file;
use crate::device::{DType, Gpu};
use crate::dist::Wire;
use crate::dist::nccl::{self, Element, Nccl, Part};
use crate::dist::ordered::Shards;
use crate::dist::ranks::Wait;
use crate::dist::watchdog::{Watchdog, Watched};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Elements of each rank's shard that are exchanged at once: 16 MiB.
const BUCKET: usize = 4 << 20;

/// The ranks of a run, each with its GPU.
pub(super) struct DeviceSums {
    team: Team,
    gpu: &'static Gpu,
    nccl: Option<(Nccl, u64)>,
    watchdog: Watchdog,
}

impl DeviceSums {
    /// Connects the GPUs of a team; `None` for a process on its own.
    ///
    /// # Errors
    /// If NCCL is missing, or the GPUs cannot reach each other.
    pub fn new(team: &Team, gpu: &'static Gpu) -> Result<Option<DeviceSums>> {
        let ranks = &team.ranks;
        if ranks.size() == 1 {
            return Ok(None);
        }
        let nccl = match gpu.driver().stream()? {
            None => None,
            Some(stream) => {
                let id = if ranks.is_root() { nccl::unique_id()?.to_bytes() } else { Vec::new() };
                let id = ranks.gather("NCCL id", &id)?.swap_remove(0);
                let id = nccl::UniqueId::from_bytes(&id)?;
                Some((Nccl::start(id, ranks.rank(), ranks.size(), ranks.limit(Wait::Start))?, stream))
            }
        };
        let told = Arc::new(ranks.clone());
        let watchdog = Watchdog::start(move |call| {
            // The host waits for the GPU, and that for a rank that does not come: nothing else can end this.
            let error = Error::Device(format!(
                "rank {} waited {:.0} s for its GPU in {call} (dist.timeout): another rank hangs, or NCCL does",
                told.rank(),
                call.limit.unwrap_or_default().as_secs_f64()
            ));
            eprintln!("error: {error}");
            told.abort(&error);
            exit(1);
        });
        Ok(Some(DeviceSums { team: team.clone(), gpu, nccl, watchdog }))
    }

    /// Watches a wait for the GPU.
    pub fn watch(&self) -> Watched<'_> {
        self.watchdog.watch(self.team.ranks.waits_for_device())
    }

    /// What NCCL has met with since.
    ///
    /// # Errors
    /// A `Device` error with its words.
    pub fn check(&self) -> Result<()> {
        self.nccl.as_ref().map_or(Ok(()), |(nccl, _)| nccl.check())
    }

    /// How the elements of a buffer are divided among ranks.
    pub fn shards(&self, len: usize) -> Shards {
        // As ranks write checkpoints, each its own part.
        Shards::new(len, self.team.ranks.size(), arena_file::chunk(len))
    }

    /// Sends `send[r]` to rank `r` and receives `receive[r]` from it; all are of one dtype.
    fn exchange(&mut self, name: &'static str, send: &[Tensor], receive: &mut [Tensor]) -> Result<()> {
        let ranks = &self.team.ranks;
        let Some((nccl, stream)) = &mut self.nccl else {
            let out: Vec<Vec<f32>> = send.iter().map(as_f32).collect::<Result<_>>()?;
            let mut into: Vec<Vec<f32>> = receive.iter().map(|part| vec![0.0; part.len()]).collect();
            let send: Vec<&[u8]> = out.iter().map(|part| bytemuck::cast_slice(part)).collect();
            let mut slices: Vec<&mut [u8]> = into.iter_mut().map(|part| bytemuck::cast_slice_mut(part)).collect();
            ranks.exchange(name, &send, &mut slices)?;
            for (part, values) in receive.iter_mut().zip(&into) {
                *part = from_f32(values, part)?;
            }
            return Ok(());
        };
        let part = |address: u64, tensor: &Tensor| Part { address, count: tensor.len() * tensor.dtype().size() };
        let out: Vec<Part> = send.iter().map(|tensor| part(tensor.address(), tensor)).collect();
        let into: Vec<Part> = receive.iter_mut().map(|tensor| part(tensor.address_mut(), tensor)).collect();
        let limit = ranks.limit(Wait::Step);
        // SAFETY: the tensors live until this returns, and their memory goes to no other owner but in the order of this very
        // stream; each received one is a buffer of its own.
        unsafe { nccl.all_to_all(&out, &into, Element::U8, *stream, limit) }
    }

    /// Gives every rank the shards of all.
    ///
    /// # Errors
    /// If a rank is gone, or memory cannot be had.
    pub fn all_gather(&mut self, name: &'static str, data: &mut Tensor, shards: &Shards) -> Result<()> {
        let size = self.team.ranks.size();
        let own = shards.range(self.team.ranks.rank());
        let most = (0..size).map(|rank| shards.range(rank).len()).max().unwrap_or(0);
        for index in 0..most.div_ceil(BUCKET) {
            let piece = |rank: usize| shards.piece(rank, index, BUCKET);
            let mine = piece(self.team.ranks.rank());
            debug_assert!(mine.start >= own.start && mine.end <= own.end);
            let send = vec![data.view(mine.start, &[mine.len()]); size];
            let mut receive = (0..size)
                .map(|rank| Tensor::empty(self.gpu.device(), data.dtype(), &[piece(rank).len()]))
                .collect::<Result<Vec<_>>>()?;
            self.exchange(name, &send, &mut receive)?;
            drop(send);
            for (rank, part) in receive.iter().enumerate().filter(|(_, part)| !part.is_empty()) {
                data.copy_part(piece(rank).start, part)?;
            }
        }
        Ok(())
    }

    /// Adds a buffer of f32 over all ranks; all have the sum.
    ///
    /// # Errors
    /// If a rank is gone, or memory cannot be had.
    pub fn all_reduce(&mut self, name: &'static str, data: &mut Tensor) -> Result<()> {
        let how = self.team.summation;
        if !how.ordered
            && how.wire == Wire::F32
            && let Some((nccl, stream)) = &mut self.nccl
        {
            let part = Part { address: data.address_mut(), count: data.len() };
            // SAFETY: the tensor lives on until work in this stream's order ends.
            return unsafe { nccl.all_reduce(part, Element::F32, *stream, self.team.ranks.limit(Wait::Step)) };
        }
        let wire = if how.wire == Wire::Bf16 { DType::BF16 } else { DType::F32 };
        let shards = self.shards(data.len());
        let (rank, size) = (self.team.ranks.rank(), self.team.ranks.size());
        let most = (0..size).map(|rank| shards.range(rank).len()).max().unwrap_or(0);
        for index in 0..most.div_ceil(BUCKET) {
            let own = shards.piece(rank, index, BUCKET);
            let send = (0..size)
                .map(|to| {
                    let piece = shards.piece(to, index, BUCKET);
                    let view = data.view(piece.start, &[piece.len()]);
                    if piece.is_empty() { Tensor::empty(self.gpu.device(), wire, &[0]) } else { view.to_dtype(wire) }
                })
                .collect::<Result<Vec<_>>>()?;
            let mut receive =
                (0..size).map(|_| Tensor::empty(self.gpu.device(), wire, &[own.len()])).collect::<Result<Vec<_>>>()?;
            self.exchange(name, &send, &mut receive)?;
            drop(send);
            if own.is_empty() {
                continue;
            }
            let sum = add_in_tree(receive)?;
            // Rounded as it is gathered, so that all ranks have the same.
            let sum = if wire == DType::F32 { sum } else { sum.to_dtype(wire)?.to_dtype(DType::F32)? };
            data.copy_part(own.start, &sum)?;
        }
        self.all_gather(name, data, &shards)
    }

    /// Gives every rank the sections of all of a small buffer of words.
    ///
    /// # Errors
    /// If a rank is gone, or memory cannot be had.
    pub fn share(&mut self, name: &'static str, data: &mut Tensor) -> Result<()> {
        let (rank, size) = (self.team.ranks.rank(), self.team.ranks.size());
        let each = data.len() / size;
        let send = vec![data.view(rank * each, &[each]); size];
        let mut receive =
            (0..size).map(|_| Tensor::empty(self.gpu.device(), data.dtype(), &[each])).collect::<Result<Vec<_>>>()?;
        self.exchange(name, &send, &mut receive)?;
        drop(send);
        for (from, part) in receive.iter().enumerate() {
            data.copy_part(from * each, part)?;
        }
        Ok(())
    }
}

/// Adds the parts of 2^k ranks pairwise, level by level, in f32.
fn add_in_tree(parts: Vec<Tensor>) -> Result<Tensor> {
    let mut parts = parts.into_iter().map(|part| part.to_dtype(DType::F32)?.into_sole()).collect::<Result<Vec<_>>>()?;
    while parts.len() > 1 {
        let mut level = Vec::with_capacity(parts.len() / 2);
        let mut pairs = parts.into_iter();
        while let (Some(mut left), Some(right)) = (pairs.next(), pairs.next()) {
            left.add_assign(&right)?;
            level.push(left);
        }
        parts = level;
    }
    parts.pop().ok_or_else(|| Error::Training("a sum over no ranks".into()))
}

/// The values, or the bits of words, on the host.
fn as_f32(tensor: &Tensor) -> Result<Vec<f32>> {
    if tensor.is_empty() {
        return Ok(Vec::new());
    }
    let host = tensor.to_device(crate::device::Device::Cpu)?;
    Ok(match tensor.dtype() {
        DType::U32 => host.u32().iter().map(|&bits| f32::from_bits(bits)).collect(),
        _ => host.to_dtype(DType::F32)?.f32().to_vec(),
    })
}

/// A tensor like `like` with what [`as_f32`] gave.
fn from_f32(values: &[f32], like: &Tensor) -> Result<Tensor> {
    if values.is_empty() {
        return Ok(like.clone());
    }
    let host = match like.dtype() {
        DType::U32 => Tensor::from_u32(&values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), like.shape())?,
        dtype => Tensor::from_f32(values, like.shape())?.to_dtype(dtype)?,
    };
    host.to_device(like.device())
}
