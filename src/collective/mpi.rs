//! Ranks of an MPI job (feature `mpi`, by rsmpi): CPU clusters with their own networks.
//!
//! MPI kills the whole job when a rank dies, and cannot be brought to an end in order when one panics or hangs: so a failure
//! aborts the job, and a watchdog does when a call does not come back.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::CommunicatorCollectives;

use super::watchdog::Watchdog;
use super::{Call, Collective};
use crate::error::{Error, Result};

/// Bytes that one MPI call moves at most between two ranks, so that counts fit 32 bits.
const MAX: usize = 1 << 30;

/// One rank of an MPI job.
pub struct Mpi {
    world: SimpleCommunicator,
    rank: usize,
    size: usize,
    busy: Mutex<()>,
    /// Whether MPI allows calls from any thread.
    any_thread: bool,
    watchdog: Watchdog,
    /// Ends MPI when dropped.
    _universe: Universe,
}

// SAFETY: the communicator is MPI_COMM_WORLD, which lives as long as MPI. Every call but MPI_Abort is made under `busy`, and on
// another thread than the one that began MPI only where MPI allows that (`works_on_any_thread`).
unsafe impl Send for Mpi {}
// SAFETY: calls through `&Mpi` from several threads meet at `busy`, one after the other; `rank` and `size` never change.
unsafe impl Sync for Mpi {}

impl Mpi {
    /// Joins the job that mpiexec has started.
    ///
    /// # Errors
    /// A `Device` error if MPI was used before in this process.
    pub fn start() -> Result<Mpi> {
        let (universe, provided) = mpi::initialize_with_threading(Threading::Multiple)
            .ok_or_else(|| Error::Device("MPI is in use in this process already".into()))?;
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        let watchdog = Watchdog::start(move |call| {
            let limit = call.limit.unwrap_or_default().as_secs_f64();
            end_job(
                &format!(
                    "rank {rank} waited {limit:.0} s for the others in {call} (dist.timeout): one of them hangs, or MPI does"
                ),
                1,
            );
        });
        // Calls are made one at a time (`busy`), so this much is enough.
        let any_thread = provided >= Threading::Serialized;
        Ok(Mpi { world, rank, size, busy: Mutex::new(()), any_thread, watchdog, _universe: universe })
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How many rounds of [`MAX`] bytes a rank pair all ranks need for the longest part of any of them.
    fn rounds(&self, longest: usize) -> usize {
        let own = longest.div_ceil(self.most()) as u64;
        let mut all = 0u64;
        self.world.all_reduce_into(&own, &mut all, SystemOperation::max());
        all as usize
    }

    fn most(&self) -> usize {
        MAX / self.size
    }
}

/// Says why (an event that the program writes) and ends all ranks.
fn end_job(reason: &str, code: u8) -> ! {
    tracing::error!("{reason}");
    // The communicator is a constant of MPI: it can be had anew.
    SimpleCommunicator::world().abort(i32::from(code))
}

/// Counts and places of parts that lie one after the other.
fn partition(lengths: &[usize]) -> (Vec<i32>, Vec<i32>) {
    let counts: Vec<i32> = lengths.iter().map(|&length| length as i32).collect();
    let places = counts.iter().scan(0, |next, &count| {
        *next += count;
        Some(*next - count)
    });
    (counts.clone(), places.collect())
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn engine(&self) -> &'static str {
        "mpi"
    }

    fn works_on_any_thread(&self) -> bool {
        self.any_thread
    }

    fn all_to_all(&self, call: Call, send: &[&[u8]], receive: &mut [&mut [u8]]) -> Result<()> {
        let _alone = self.alone();
        let _watched = self.watchdog.watch(call);
        let longest = send.iter().map(|part| part.len()).chain(receive.iter().map(|part| part.len())).max();
        let most = self.most();
        let rounds = self.rounds(longest.unwrap_or(0));
        if rounds == 0 {
            self.world.barrier();
        }
        for round in 0..rounds {
            let window = |length: usize| (round * most).min(length)..((round + 1) * most).min(length);
            let out: Vec<&[u8]> = send.iter().map(|part| &part[window(part.len())]).collect();
            let (counts, places) = partition(&out.iter().map(|part| part.len()).collect::<Vec<_>>());
            let lengths: Vec<usize> = receive.iter().map(|part| window(part.len()).len()).collect();
            let (counts_in, places_in) = partition(&lengths);
            let out = out.concat();
            let mut into = vec![0u8; lengths.iter().sum()];
            self.world.all_to_all_varcount_into(
                &Partition::new(&out[..], counts, places),
                &mut PartitionMut::new(&mut into[..], counts_in, places_in),
            );
            let mut rest = &into[..];
            for (part, &length) in receive.iter_mut().zip(&lengths) {
                let (now, later) = rest.split_at(length);
                let place = window(part.len());
                part[place].copy_from_slice(now);
                rest = later;
            }
        }
        Ok(())
    }

    fn all_reduce(&self, call: Call, data: &mut [f32]) -> Result<()> {
        let _alone = self.alone();
        let _watched = self.watchdog.watch(call);
        for part in data.chunks_mut(MAX / 4) {
            let own = part.to_vec();
            self.world.all_reduce_into(&own[..], part, SystemOperation::sum());
        }
        Ok(())
    }

    fn barrier(&self, call: Call) -> Result<()> {
        let _alone = self.alone();
        let _watched = self.watchdog.watch(call);
        self.world.barrier();
        Ok(())
    }

    fn abort(&self, reason: &str, code: u8) {
        if self.rank > 0 {
            // What fails on all ranks at once, rank 0 writes down: it must not be killed before.
            std::thread::sleep(Duration::from_millis(500));
        }
        end_job(&format!("rank {}: {reason}", self.rank), code);
    }
}
