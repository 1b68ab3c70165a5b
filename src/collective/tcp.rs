//! Ranks as processes that are connected pairwise by TCP: the engine for CPUs that is always there, and what GPUs use for
//! everything that is not on a GPU.
//!
//! In round `k` of an exchange a rank sends to the rank `k` after it and receives from the rank `k` before it, both at once,
//! so that full buffers on both sides cannot lock the two. A rank that ends closes its connections, which every rank that
//! waits for it sees at once; a rank that hangs is found by the call's limit.

use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::wire::{self, Kind, Trouble};
use super::{Call, Collective, Wire, ordered};
use crate::error::{Error, Result};

/// One rank, connected to all others.
pub struct Tcp {
    rank: usize,
    /// Connections by rank; none to itself.
    peers: Vec<Option<TcpStream>>,
    /// Exchanges begun.
    sequence: AtomicU64,
    /// One exchange at a time.
    busy: Mutex<()>,
    /// The last call that each rank has taken part in.
    last: Mutex<Vec<Option<Call>>>,
}

/// Less than this fits the buffers of a connection: it is sent without a thread of its own.
const SMALL: usize = 16 << 10;

impl Tcp {
    /// A rank with these connections, one to every other rank.
    pub(super) fn new(rank: usize, peers: Vec<Option<TcpStream>>) -> Tcp {
        let last = Mutex::new(vec![None; peers.len()]);
        Tcp { rank, peers, sequence: AtomicU64::new(0), busy: Mutex::new(()), last }
    }

    fn peer(&self, rank: usize) -> &TcpStream {
        self.peers[rank].as_ref().expect("connected to every other rank")
    }

    /// The trouble with a rank in words: who, where, and what was last heard of it.
    fn explain(&self, call: Call, rank: usize, trouble: Trouble) -> Error {
        let heard = match self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[rank] {
            Some(last) => format!("; the last it took part in was {last}"),
            None => String::new(),
        };
        let own = self.rank;
        Error::Device(match trouble {
            Trouble::Gone(why) => format!("rank {rank} is gone ({why}): rank {own} waited for it in {call}{heard}"),
            Trouble::Late => format!(
                "rank {rank} does not answer: rank {own} waited {:.0} s for it in {call} (dist.timeout){heard}",
                call.limit.unwrap_or_default().as_secs_f64()
            ),
            Trouble::Aborted(why) => format!("rank {rank} stopped the run: {why}"),
            Trouble::OutOfStep(what) => format!("rank {rank} is out of step with rank {own} in {call}: {what}"),
        })
    }

    /// Sends to one rank and receives from another, at the same time.
    fn pair(
        &self,
        sequence: u64,
        call: Call,
        (to, out): (usize, &[u8]),
        (from, into): (usize, &mut [u8]),
        deadline: Option<Instant>,
    ) -> Result<()> {
        let send = || wire::write_frame(self.peer(to), Kind::Data, sequence, out, deadline);
        let (sent, received) = if out.len() <= SMALL {
            let sent = send();
            // What the other rank said before it went is more telling than that it cannot be written to.
            (sent, wire::read_frame(self.peer(from), sequence, into, deadline))
        } else {
            std::thread::scope(|scope| {
                let sender = scope.spawn(send);
                let received = wire::read_frame(self.peer(from), sequence, into, deadline);
                if received.is_err() {
                    // The run is over: the sender must not wait for a rank that may never read.
                    let _ = self.peer(to).shutdown(std::net::Shutdown::Write);
                }
                let sent = sender.join().unwrap_or_else(|_| Err(Trouble::Gone("the sending thread panicked".into())));
                (sent, received)
            })
        };
        received.map_err(|trouble| self.explain(call, from, trouble))?;
        sent.map_err(|trouble| self.explain(call, to, trouble))?;
        self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[from] = Some(call);
        Ok(())
    }
}

impl Collective for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.peers.len()
    }

    fn engine(&self) -> &'static str {
        "tcp"
    }

    fn all_to_all(&self, call: Call, send: &[&[u8]], receive: &mut [&mut [u8]]) -> Result<()> {
        let _alone = self.busy.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let deadline = call.limit.map(|limit| Instant::now() + limit);
        receive[self.rank].copy_from_slice(send[self.rank]);
        let size = self.size();
        for round in 1..size {
            let (to, from) = ((self.rank + round) % size, (self.rank + size - round) % size);
            self.pair(sequence, call, (to, send[to]), (from, &mut *receive[from]), deadline)?;
        }
        Ok(())
    }

    fn all_reduce(&self, call: Call, data: &mut [f32]) -> Result<()> {
        ordered::all_reduce(self, call, data, Wire::F32)
    }

    fn abort(&self, reason: &str, _code: u8) {
        let deadline = Some(Instant::now() + Duration::from_millis(200));
        for peer in self.peers.iter().flatten() {
            // Whoever cannot be told sees the connection close.
            let _ = wire::write_frame(peer, Kind::Abort, 0, reason.as_bytes(), deadline);
        }
    }
}
