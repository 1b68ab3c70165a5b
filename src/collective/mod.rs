//! Several processes that train one model: who they are, how they find each other, how they exchange numbers.
//!
//! The one idea: everything that decides a result is built on a single primitive, the all-to-all exchange
//! ([`Collective::all_to_all`]), because copying bytes has no order. Sums are made on top of it, in an order of our own
//! ([`ordered`]), so that engines cannot differ in their bits: [`local`] (threads of one process, for tests), [`tcp`]
//! (processes on CPUs, always built), `mpi` (CPU clusters, a feature), [`nccl`] (GPUs).
//!
//! [`launch`] reads who this process is from the environment that launchers set, [`rendezvous`] connects processes,
//! [`ranks`] is what training works with, [`supervisor`] starts processes on one machine and starts them again when one fails.

pub mod fault;
pub mod launch;
pub mod local;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod nccl;
pub mod ordered;
pub mod ranks;
pub mod rendezvous;
mod root_work;
pub mod supervisor;
pub mod tcp;
pub mod watchdog;
mod wire;

pub use ordered::Wire;
pub use ranks::Ranks;

use std::ops::Range;
use std::time::Duration;

use crate::error::Result;

/// A collective as messages name it, and how long a rank waits in it for the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Call {
    /// What it is for: "gradients", "parameters", "stop".
    pub name: &'static str,
    /// The training step it belongs to.
    pub step: u64,
    /// The longest wait for another rank; `None` waits as long as the other process lives.
    pub limit: Option<Duration>,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of step {}", self.name, self.step)
    }
}

/// A group of ranks that exchange bytes and numbers in host memory. Every rank makes the same calls in the same order; a
/// call returns when this rank's part of it is done. After an error the group is of no use any more.
pub trait Collective: Send + Sync {
    /// This process, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// The engine's name: "local", "tcp", "mpi".
    fn engine(&self) -> &'static str;

    /// Whether calls may be made on another thread than the one that joined the group (one at a time).
    fn works_on_any_thread(&self) -> bool {
        true
    }

    /// Sends `send[r]` to every rank `r` and receives `receive[r]` from it; what a rank keeps for itself is copied. The
    /// receiver knows the length of what it gets.
    ///
    /// # Errors
    /// A `Device` error that names the rank that is gone, late or out of step, and the call.
    fn all_to_all(&self, call: Call, send: &[&[u8]], receive: &mut [&mut [u8]]) -> Result<()>;

    /// Receives `all[r]` from every rank `r`, which gave it as `mine`.
    ///
    /// # Errors
    /// As [`Collective::all_to_all`].
    fn all_gather(&self, call: Call, mine: &[u8], all: &mut [&mut [u8]]) -> Result<()> {
        self.all_to_all(call, &vec![mine; self.size()], all)
    }

    /// Gives every rank the bytes of rank `root`.
    ///
    /// # Errors
    /// As [`Collective::all_to_all`].
    fn broadcast(&self, call: Call, root: usize, data: &mut [u8]) -> Result<()> {
        let (rank, size) = (self.rank(), self.size());
        let own = if rank == root { data.to_vec() } else { Vec::new() };
        let mut receive: Vec<&mut [u8]> = (0..size).map(|_| Default::default()).collect();
        receive[root] = data;
        self.all_to_all(call, &vec![own.as_slice(); size], &mut receive)
    }

    /// Sums over ranks, element by element; every rank gets the same bits. In which order is the engine's choice: the result
    /// may depend on the number of ranks ([`ordered::all_reduce`] does not).
    ///
    /// # Errors
    /// As [`Collective::all_to_all`].
    fn all_reduce(&self, call: Call, data: &mut [f32]) -> Result<()>;

    /// As [`Collective::all_reduce`], but each rank gets its range of the sum only; the rest of `data` is unspecified
    /// afterwards.
    ///
    /// # Errors
    /// As [`Collective::all_to_all`].
    fn reduce_scatter(&self, call: Call, data: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        let _ = ranges;
        self.all_reduce(call, data)
    }

    /// Waits until every rank has come here.
    ///
    /// # Errors
    /// As [`Collective::all_to_all`].
    fn barrier(&self, call: Call) -> Result<()> {
        let mut receive: Vec<&mut [u8]> = (0..self.size()).map(|_| Default::default()).collect();
        self.all_to_all(call, &vec![&[][..]; self.size()], &mut receive)
    }

    /// Tells the other ranks why this one cannot continue; their calls fail with this reason. It does not wait for them. An
    /// engine that cannot tell ends the whole job, with this exit code.
    fn abort(&self, reason: &str, code: u8);
}
