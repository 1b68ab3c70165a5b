//! Sums over ranks whose gradients lie on GPUs: the ordered tree of [`crate::collective::ordered`], with additions on
//! the device.
//!
//! What is exchanged goes by NCCL, in the order of the engine's own stream. A device that is none of NVIDIA's (the emulator
//! of the tests) goes by way of the host and the ranks' own connections, with the same bits.
//!
//! Buckets of gradients are added while the backward pass runs: on a second stream, in place, with buffers that are kept
//! for it, since the pool of memory knows of one order of work only.

use std::ops::Range;
use std::sync::Arc;

use super::Team;
use crate::checkpoint::arena_file;
use crate::collective::Wire;
use crate::collective::nccl::{self, Element, Nccl, Part};
use crate::collective::ordered::{self, Shards};
use crate::collective::ranks::Wait;
use crate::collective::watchdog::{Watchdog, Watched};
use crate::device::{DType, Gpu};
use crate::error::{Error, Result};
use crate::optim::DeviceOptimizer;
use crate::tensor::{Tensor, add_at};

/// Elements of each rank's shard that are exchanged at once: 16 MiB.
const BUCKET: usize = 4 << 20;

/// The ranks of a run, each with its GPU.
pub(super) struct DeviceSums {
    team: Team,
    gpu: &'static Gpu,
    nccl: Option<(Nccl, u64)>,
    watchdog: Watchdog,
    /// What is received while other work runs: a buffer for each rank. It is used in the order of that work alone.
    received: Vec<Tensor>,
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
            tracing::error!("{error}");
            told.abort(&error);
            told.end_process(1);
        });
        Ok(Some(DeviceSums { team: team.clone(), gpu, nccl, watchdog, received: Vec::new() }))
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
        let size = self.team.ranks.size();
        let whole = Shards::new(len, size, DeviceOptimizer::PART_ALIGN);
        // Whole chunks of the norm where there are enough; in any case as ranks write checkpoints, each its own part.
        match whole.range(size - 1).is_empty() {
            true => Shards::new(len, size, arena_file::chunk(len)),
            false => whole,
        }
    }

    /// Whether each rank's shard is made of whole chunks of the norm, so that it need not have the whole sum.
    pub fn splits_norm(&self, len: usize) -> bool {
        let shards = self.shards(len);
        shards
            .ranges()
            .iter()
            .all(|range| range.start == len || range.start.is_multiple_of(DeviceOptimizer::PART_ALIGN))
    }

    /// Gives every rank the chunks of the norm of all, whose shards are those of `len` elements.
    ///
    /// # Errors
    /// If a rank is gone, or memory cannot be had.
    pub fn share_norm(&mut self, [sums, bad]: [&mut Tensor; 2]) -> Result<()> {
        let size = self.team.ranks.size();
        let shards = Shards::new(sums.len(), size, 1);
        self.all_gather("gradient norm", sums, &shards)?;
        let shards = Shards::new(bad.len(), size, 2);
        self.all_gather("gradient norm", bad, &shards)
    }

    /// Whether sums can be made while other work runs.
    pub fn can_overlap(&self) -> bool {
        // Rounding to bf16 would need buffers of its own.
        self.team.bucket > 0 && self.team.summation.wire == Wire::F32
    }

    /// Adds `window` of a buffer of `len` f32 that starts at the address `base` over all ranks, while the GPU does
    /// other work, this rank's own sums at the addresses `earlier` first. After [`DeviceSums::join`] all have the sum,
    /// or each that of its shard where `is_split`.
    ///
    /// # Errors
    /// If a rank is gone, or memory cannot be had.
    pub fn reduce_beside(
        &mut self,
        base: u64,
        window: &Range<usize>,
        len: usize,
        earlier: &[u64],
        is_split: bool,
    ) -> Result<()> {
        let (gpu, size, at) = (self.gpu, self.team.ranks.size(), 4 * window.start as u64);
        let ranges = match is_split {
            true => self.shards(len).within(window),
            false => Shards::new(window.len(), size, 16).ranges(),
        };
        if self.received.is_empty() {
            let new = || Tensor::empty(gpu.device(), DType::F32, &[BUCKET]);
            self.received = (0..size).map(|_| new()).collect::<Result<_>>()?;
        }
        gpu.driver().beside(&mut || {
            for sum in earlier {
                add_at(gpu, base + at, sum + at, window.len(), DType::F32)?;
            }
            self.reduce_at(base + at, window.len(), &ranges, !is_split)
        })
    }

    /// Lets all later work wait for the sums that were made in the meantime.
    ///
    /// # Errors
    /// If the device fails.
    pub fn join(&self) -> Result<()> {
        self.gpu.driver().join()
    }

    /// Adds `len` f32 at an address over all ranks; each has the sum of its range, and gives it to all if `gathers`.
    fn reduce_at(&mut self, base: u64, len: usize, ranges: &[Range<usize>], gathers: bool) -> Result<()> {
        let (gpu, rank, size) = (self.gpu, self.team.ranks.rank(), self.team.ranks.size());
        if !self.team.summation.ordered
            && let Some((nccl, _)) = &mut self.nccl
            && let Some(stream) = gpu.driver().stream()?
        {
            let part = Part { address: base, count: len };
            // SAFETY: the caller's buffer lives on until the work on the second stream is joined.
            return unsafe { nccl.all_reduce(part, Element::F32, stream, self.team.ranks.limit(Wait::Step)) };
        }
        let received: Vec<u64> = self.received.iter_mut().map(Tensor::address_mut).collect();
        let part = |address: u64, count: usize| Part { address, count: 4 * count };
        let pieces = ranges.iter().map(|range| range.len().div_ceil(BUCKET)).max().unwrap_or(0);
        for index in 0..pieces {
            let place = |of: usize| {
                let piece = ordered::piece(&ranges[of], index, BUCKET);
                part(base + 4 * piece.start as u64, piece.len())
            };
            let own = place(rank);
            let send: Vec<Part> = (0..size).map(place).collect();
            let into: Vec<Part> = received.iter().map(|&address| Part { address, ..own }).collect();
            self.exchange_at("gradients", &send, &into)?;
            let mut step = 1;
            while step < size && own.count > 0 {
                for left in (0..size).step_by(2 * step) {
                    add_at(gpu, received[left], received[left + step], own.count / 4, DType::F32)?;
                }
                step *= 2;
            }
            let sum = Part { address: received[0], ..own };
            match gathers {
                true => self.exchange_at("gradients", &vec![sum; size], &(0..size).map(place).collect::<Vec<_>>())?,
                false if own.count > 0 => gpu.driver().copy(own.address, sum.address, own.count)?,
                false => {}
            }
        }
        Ok(())
    }

    /// Sends `send[r]` to rank `r` and receives `receive[r]` from it: bytes of device memory, in the order of the work
    /// at hand.
    fn exchange_at(&mut self, name: &'static str, send: &[Part], receive: &[Part]) -> Result<()> {
        let (driver, ranks) = (self.gpu.driver(), &self.team.ranks);
        if let Some((nccl, _)) = &mut self.nccl
            && let Some(stream) = driver.stream()?
        {
            // SAFETY: parts of buffers that live until the work on the second stream is joined; those that are received do not overlap.
            return unsafe { nccl.all_to_all(send, receive, Element::U8, stream, ranks.limit(Wait::Step)) };
        }
        let filled = |part: &Part| -> Result<Vec<u8>> {
            let mut bytes = vec![0; part.count];
            if part.count > 0 {
                driver.download(&mut bytes, part.address)?;
            }
            Ok(bytes)
        };
        let out = send.iter().map(filled).collect::<Result<Vec<_>>>()?;
        let mut into: Vec<Vec<u8>> = receive.iter().map(|part| vec![0; part.count]).collect();
        let mut slices: Vec<&mut [u8]> = into.iter_mut().map(Vec::as_mut_slice).collect();
        ranks.exchange(name, &out.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut slices)?;
        let taken = receive.iter().zip(&into).filter(|(part, _)| part.count > 0);
        taken.into_iter().try_for_each(|(part, bytes)| driver.upload(part.address, bytes))
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
