//! Ranks as threads of one process: the engine of the tests.
//!
//! Everyone lays what it sends on a table, waits until all have, takes what is theirs, and waits until all have taken.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::{Call, Collective, Wire, ordered};
use crate::error::{Error, Result};

/// One rank of a group of threads.
pub struct Local {
    rank: usize,
    size: usize,
    table: Arc<Table>,
}

struct Table {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What rank `from` sends to rank `to`, in `laid[from][to]`.
    laid: Vec<Option<Vec<Vec<u8>>>>,
    /// How many ranks have taken their part.
    taken: usize,
    /// How many calls were finished by all.
    round: u64,
    broken: Option<String>,
}

/// A group of `size` ranks.
pub fn group(size: usize) -> Vec<Local> {
    let laid = (0..size).map(|_| None).collect();
    let table = Arc::new(Table { state: Mutex::new(State { laid, ..State::default() }), changed: Condvar::new() });
    (0..size).map(|rank| Local { rank, size, table: table.clone() }).collect()
}

/// Runs `work` as every rank of a group at once, and gives what each returned, by rank.
pub fn run<T: Send>(size: usize, work: impl Fn(&Local) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = group(size).into_iter().map(|rank| scope.spawn(move || work(&rank))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

impl Local {
    /// Waits until `ready`, or until the group is broken or the limit has passed (then it breaks the group).
    fn wait<'t>(
        &self,
        call: Call,
        mut state: MutexGuard<'t, State>,
        ready: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'t, State>> {
        let began = Instant::now();
        loop {
            if let Some(why) = &state.broken {
                return Err(Error::Device(why.clone()));
            }
            if ready(&state) {
                return Ok(state);
            }
            if call.limit.is_some_and(|limit| began.elapsed() > limit) {
                let late: Vec<String> =
                    (0..self.size).filter(|&rank| state.laid[rank].is_none()).map(|rank| rank.to_string()).collect();
                let why = format!("rank {} did not come to {call}", late.join(", "));
                state.broken = Some(why.clone());
                self.table.changed.notify_all();
                return Err(Error::Device(why));
            }
            let pause = Duration::from_millis(20);
            state = match self.table.changed.wait_timeout(state, pause) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.table.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Collective for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn engine(&self) -> &'static str {
        "local"
    }

    fn all_to_all(&self, call: Call, send: &[&[u8]], receive: &mut [&mut [u8]]) -> Result<()> {
        let mut state = self.state();
        let round = state.round;
        state.laid[self.rank] = Some(send.iter().map(|part| part.to_vec()).collect());
        self.table.changed.notify_all();
        let mut state = self.wait(call, state, |state| state.laid.iter().all(Option::is_some))?;
        for (part, laid) in receive.iter_mut().zip(&state.laid) {
            let found = laid.as_ref().map(|parts| parts[self.rank].as_slice()).unwrap_or_default();
            if found.len() != part.len() {
                let why = format!("rank {} expects {} bytes in {call} and got {}", self.rank, part.len(), found.len());
                return Err(Error::Device(why));
            }
            part.copy_from_slice(found);
        }
        state.taken += 1;
        if state.taken == self.size {
            state.taken = 0;
            state.round += 1;
            state.laid.iter_mut().for_each(|laid| *laid = None);
            self.table.changed.notify_all();
            return Ok(());
        }
        self.wait(call, state, |state| state.round > round).map(|_| ())
    }

    fn all_reduce(&self, call: Call, data: &mut [f32]) -> Result<()> {
        ordered::all_reduce(self, call, data, Wire::F32)
    }

    fn abort(&self, reason: &str, _code: u8) {
        self.state().broken.get_or_insert_with(|| format!("rank {} stopped the run: {reason}", self.rank));
        self.table.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call = Call { name: "test", step: 3, limit: Some(Duration::from_secs(20)) };

    #[test]
    fn every_collective_does_what_it_says() {
        let found = run(4, |rank| {
            let me = rank.rank() as u8;
            let mut all = [[0u8; 2]; 4];
            let mut slices: Vec<&mut [u8]> = all.iter_mut().map(|part| &mut part[..]).collect();
            rank.all_gather(CALL, &[me, 10 * me], &mut slices).unwrap();
            let mut word = if me == 2 { *b"from two" } else { *b"........" };
            rank.broadcast(CALL, 2, &mut word).unwrap();
            rank.barrier(CALL).unwrap();
            let mut sums = [f32::from(me), 1.0];
            rank.all_reduce(CALL, &mut sums).unwrap();
            (all, word, sums)
        });
        for rank in found {
            assert_eq!(rank, ([[0, 0], [1, 10], [2, 20], [3, 30]], *b"from two", [6.0, 4.0]));
        }
    }

    #[test]
    fn nobody_waits_for_ever() {
        let errors = run(3, |rank| match rank.rank() {
            0 => {
                rank.abort("out of memory", 1);
                String::new()
            }
            _ => rank.barrier(CALL).unwrap_err().to_string(),
        });
        assert!(errors[1..].iter().all(|error| error.contains("rank 0 stopped the run: out of memory")), "{errors:?}");
        let short = Call { limit: Some(Duration::from_millis(50)), ..CALL };
        let errors = run(2, |rank| (rank.rank() == 0).then(|| rank.barrier(short).unwrap_err().to_string()));
        assert_eq!(errors[0].as_deref(), Some("rank 1 did not come to \"test\" of step 3"));
    }
}
