//! What training sees of the other ranks: agreement, work of rank 0 that others wait for, the flag that asks all to stop,
//! sums of gradients. A run on its own is a group of one, for which all of this is nothing.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::ordered::{self, Shards};
use super::{Call, Collective, Wire, fault};
use crate::error::{Error, Result};

/// How gradients are summed over ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summation {
    /// In the fixed tree, whose bits do not depend on the number of ranks; else in the engine's own way.
    pub ordered: bool,
    /// The numbers on the wire.
    pub wire: Wire,
}

/// What ranks tell each other at every step.
#[derive(Clone, Debug, PartialEq)]
pub struct Pulse {
    /// Whether some rank was asked to stop.
    pub stop: bool,
    /// Milliseconds that each rank computed in its last step.
    pub busy_ms: Vec<f64>,
}

/// The slowest rank, and how the others compare.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The rank that computes longest.
    pub slowest: usize,
    /// Its time in milliseconds.
    pub slowest_ms: f64,
    /// The fastest rank's time.
    pub fastest_ms: f64,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The others, at the start.
    Start,
    /// The others, within a step.
    Step,
}

/// This process among its ranks.
#[derive(Clone)]
pub struct Ranks {
    group: Option<Arc<dyn Collective>>,
    local_rank: usize,
    timeout_ms: Arc<AtomicU64>,
    step: Arc<AtomicU64>,
    /// Milliseconds computed in the last step, as the bits of an f64.
    busy: Arc<AtomicU64>,
    end: Option<EndProcess>,
}

/// Ends this process with an exit code. Library code cannot decide that: the program hands it in.
pub type EndProcess = fn(code: u8) -> !;

/// The longest wait for another rank, unless the config says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(100);
/// The first exchanges wait longer: ranks warm up at different speeds.
const FIRST: u32 = 3;
/// How many times longer ranks wait for each other around an evaluation or a checkpoint.
pub(super) const WORK_OF_ROOT: u32 = 20;

impl Ranks {
    /// A run on its own.
    pub fn alone() -> Ranks {
        Ranks {
            group: None,
            local_rank: 0,
            timeout_ms: Arc::new(AtomicU64::new(TIMEOUT.as_millis() as u64)),
            step: Arc::default(),
            busy: Arc::default(),
            end: None,
        }
    }

    /// A rank of a group; `local_rank` counts from 0 on each machine.
    pub fn of(group: Arc<dyn Collective>, local_rank: usize) -> Ranks {
        Ranks { group: Some(group), local_rank, ..Ranks::alone() }
    }

    /// With a way to end the process, for when nothing else ends a wait: a call to a library that does not come back, or a
    /// panic.
    #[must_use]
    pub fn ending_by(self, end: EndProcess) -> Ranks {
        Ranks { end: Some(end), ..self }
    }

    /// Ends the process, where a way to do so was handed in.
    pub fn end_process(&self, code: u8) {
        if let Some(end) = self.end {
            end(code);
        }
    }

    /// This process, from 0.
    pub fn rank(&self) -> usize {
        self.group.as_ref().map_or(0, |group| group.rank())
    }

    /// This process on its machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.group.as_ref().map_or(1, |group| group.size())
    }

    /// Whether this is rank 0, which alone writes.
    pub fn is_root(&self) -> bool {
        self.rank() == 0
    }

    /// The engine between them, in a word; `None` for a run on its own.
    pub fn engine(&self) -> Option<&'static str> {
        self.group.as_ref().map(|group| group.engine())
    }

    /// The longest wait for another rank.
    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout_ms.store(timeout.as_millis() as u64, Ordering::Relaxed);
    }

    /// The step that training is at, for messages.
    pub fn set_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    /// The longest wait for what is not a call of this type's own.
    pub fn limit(&self, wait: Wait) -> Duration {
        self.timeout() * if wait == Wait::Start { FIRST } else { 1 }
    }

    /// A wait for a device that has several steps to do, as a call to watch.
    pub fn waits_for_device(&self) -> Call {
        let step = self.step.load(Ordering::Relaxed);
        Call { name: "outcome", step, limit: Some(self.timeout() * FIRST) }
    }

    /// Sends `send[r]` to every rank `r` and receives `receive[r]` from it.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn exchange(&self, name: &'static str, send: &[&[u8]], receive: &mut [&mut [u8]]) -> Result<()> {
        match &self.group {
            Some(group) => group.all_to_all(self.call(name), send, receive),
            None => Ok(()),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.load(Ordering::Relaxed))
    }

    pub(super) fn call(&self, name: &'static str) -> Call {
        let step = self.step.load(Ordering::Relaxed);
        if self.group.is_some() {
            tracing::trace!(name, step, "collective");
            fault::before_collective(self.rank(), name, step);
        }
        Call { name, step, limit: Some(self.timeout() * if step == 0 { FIRST } else { 1 }) }
    }

    /// Tells the others that this rank cannot continue. It does not wait.
    pub fn abort(&self, error: &Error) {
        if let Some(group) = &self.group {
            group.abort(&error.to_string(), error.exit_code());
        }
    }

    /// After a panic of any thread, tells the others and ends the process: a rank that is half dead would hang the
    /// rest. Nothing where no way to end it was handed in.
    pub fn end_on_panic(&self) {
        let (Some(group), Some(end)) = (&self.group, self.end) else { return };
        // The hook lives as long as the process, and the group must end before.
        let group = Arc::downgrade(group);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            let text = info.payload_as_str().unwrap_or("no message");
            if let Some(group) = group.upgrade() {
                group.abort(&format!("it panicked: {text}"), 101);
            }
            end(101);
        }));
    }

    /// Every rank's bytes, by rank.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn gather(&self, name: &'static str, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.gather_within(self.call(name), mine)
    }

    /// As [`Ranks::gather`], after work that takes ranks longer than a step does.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn gather_after_work(&self, name: &'static str, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.gather_within(Call { limit: Some(self.timeout() * WORK_OF_ROOT), ..self.call(name) }, mine)
    }

    pub(super) fn gather_within(&self, call: Call, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let Some(group) = &self.group else { return Ok(vec![mine.to_vec()]) };
        let mut lengths = vec![[0u8; 8]; group.size()];
        let mut slices: Vec<&mut [u8]> = lengths.iter_mut().map(|length| &mut length[..]).collect();
        group.all_gather(call, &(mine.len() as u64).to_le_bytes(), &mut slices)?;
        let mut all: Vec<Vec<u8>> =
            lengths.iter().map(|&length| vec![0; u64::from_le_bytes(length) as usize]).collect();
        let mut slices: Vec<&mut [u8]> = all.iter_mut().map(Vec::as_mut_slice).collect();
        group.all_gather(call, mine, &mut slices)?;
        Ok(all)
    }

    /// What work of every rank has given, by rank, after work that takes longer than a step does. If it has failed on
    /// any, all fail.
    ///
    /// # Errors
    /// The rank's own error, else that of the first rank that has one; if a rank is gone or late.
    pub fn gather_results(&self, name: &'static str, mine: Result<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        if self.group.is_none() {
            return Ok(vec![mine?]);
        }
        let told = match &mine {
            Ok(bytes) => [b"+", bytes.as_slice()].concat(),
            Err(error) => format!("-{error}").into_bytes(),
        };
        let all = self.gather_after_work(name, &told);
        // If the others are gone, too, the own error is the one to show.
        mine?;
        let mut found = Vec::with_capacity(self.size());
        for (rank, bytes) in all?.into_iter().enumerate() {
            match bytes.split_first() {
                Some((b'+', bytes)) => found.push(bytes.to_vec()),
                Some((_, why)) => {
                    return Err(Error::Training(format!("rank {rank}: {}", String::from_utf8_lossy(why))));
                }
                None => return Err(Error::Device(format!("rank {rank} sent nothing in {name:?}"))),
            }
        }
        Ok(found)
    }

    /// Checks that all ranks hold the same values of these fields.
    ///
    /// # Errors
    /// `Usage`, on every rank, with each rank and field that differs from rank 0's.
    pub fn agree(&self, fields: &[(&str, String)]) -> Result<()> {
        let mine: Vec<u8> = fields.iter().flat_map(|(_, value)| [value.as_bytes(), b"\0"].concat()).collect();
        let all = self.gather("agreement", &mine)?;
        let values = |bytes: &[u8]| -> Vec<String> {
            bytes.split(|&byte| byte == 0).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
        };
        let first = values(&all[0]);
        let mut wrong = Vec::new();
        for (rank, theirs) in all.iter().enumerate().skip(1) {
            let theirs = values(theirs);
            for (index, (name, _)) in fields.iter().enumerate() {
                let value = |of: &[String]| of.get(index).cloned().unwrap_or_default();
                if value(&theirs) != value(&first) {
                    wrong.push(format!("{name} is {} on rank {rank} and {} on rank 0", value(&theirs), value(&first)));
                }
            }
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Error::usage(format!("the ranks do not agree: {}", wrong.join("; ")))),
        }
    }

    /// How long this rank computed in the step at hand, before it waited for others.
    pub fn set_busy(&self, time: Duration) {
        self.busy.store((time.as_secs_f64() * 1e3).to_bits(), Ordering::Relaxed);
    }

    /// Once a step: whether some rank was asked to stop, and how long each computed.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn pulse(&self, stop: bool) -> Result<Pulse> {
        let busy = self.busy.load(Ordering::Relaxed);
        let Some(group) = &self.group else { return Ok(Pulse { stop, busy_ms: vec![f64::from_bits(busy)] }) };
        let mut mine = [0; 9];
        mine[0] = u8::from(stop);
        mine[1..].copy_from_slice(&busy.to_le_bytes());
        let mut all = vec![[0; 9]; group.size()];
        let mut slices: Vec<&mut [u8]> = all.iter_mut().map(|part| &mut part[..]).collect();
        group.all_gather(self.call("stop flag"), &mine, &mut slices)?;
        let time = |part: &[u8; 9]| f64::from_le_bytes(part[1..].try_into().expect("eight bytes"));
        Ok(Pulse { stop: all.iter().any(|part| part[0] != 0), busy_ms: all.iter().map(time).collect() })
    }

    /// The sum of one number a rank, in the fixed tree.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn sum(&self, name: &'static str, mine: f64) -> Result<f64> {
        let all = self.gather_numbers(name, &[mine])?;
        Ok(ordered::tree_sum(&all))
    }

    /// The numbers of all ranks, one rank's after the other's.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn gather_numbers(&self, name: &'static str, mine: &[f64]) -> Result<Vec<f64>> {
        let bytes: Vec<u8> = mine.iter().flat_map(|value| value.to_le_bytes()).collect();
        let all = self.gather(name, &bytes)?;
        let numbers = |bytes: Vec<u8>| -> Vec<f64> {
            bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
        };
        Ok(all.into_iter().flat_map(numbers).collect())
    }

    /// Adds a buffer over all ranks; all have the sum.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn all_reduce(&self, name: &'static str, data: &mut [f32], how: Summation) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        match (how.ordered, how.wire) {
            (false, Wire::F32) => group.all_reduce(self.call(name), data),
            _ => ordered::all_reduce(group.as_ref(), self.call(name), data, how.wire),
        }
    }

    /// Adds a buffer over all ranks; each has the sum of its range, and the rest is unspecified.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn reduce_scatter(
        &self,
        name: &'static str,
        data: &mut [f32],
        ranges: &[Range<usize>],
        how: Summation,
    ) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        match (how.ordered, how.wire) {
            (false, Wire::F32) => group.reduce_scatter(self.call(name), data, ranges),
            _ => ordered::reduce_scatter(group.as_ref(), self.call(name), data, ranges, how.wire),
        }
    }

    /// Whether sums can be made on another thread while this one computes.
    pub fn can_overlap(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.size() > 1 && group.works_on_any_thread())
    }

    /// Gives every rank all `shards` of a buffer of which it has its own.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn all_gather(&self, name: &'static str, data: &mut [f32], shards: &Shards) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        ordered::all_gather(group.as_ref(), self.call(name), data, shards, Wire::F32)
    }

    /// How a flat buffer is divided among ranks.
    pub fn shards(&self, len: usize) -> Shards {
        Shards::new(len, self.size(), ordered::ALIGN)
    }
}

/// The spread of what ranks computed in a step; `None` for one rank, or where a time is not known yet.
pub fn spread(busy_ms: &[f64]) -> Option<Spread> {
    if busy_ms.len() < 2 || busy_ms.contains(&0.0) {
        return None;
    }
    let slowest = (0..busy_ms.len()).fold(0, |most, rank| if busy_ms[rank] > busy_ms[most] { rank } else { most });
    let fastest_ms = busy_ms.iter().copied().fold(f64::INFINITY, f64::min);
    Some(Spread { slowest, slowest_ms: busy_ms[slowest], fastest_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::local;

    fn run<T: Send>(size: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
        let groups = std::sync::Mutex::new(local::group(size).into_iter().map(Some).collect::<Vec<_>>());
        std::thread::scope(|scope| {
            let (work, groups) = (&work, &groups);
            let start = |rank: usize| {
                scope.spawn(move || {
                    let group = groups.lock().unwrap()[rank].take().unwrap();
                    work(Ranks::of(Arc::new(group), rank))
                })
            };
            let threads: Vec<_> = (0..size).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn whoever_differs_is_named_with_the_field() {
        let found = run(3, |ranks| {
            let data = if ranks.rank() == 2 { "b" } else { "a" };
            ranks.agree(&[("the binary", "1".into()), ("the data", data.into())]).unwrap_err().to_string()
        });
        assert!(found.iter().all(|error| error == "the ranks do not agree: the data is b on rank 2 and a on rank 0"));
        assert!(run(2, |ranks| ranks.agree(&[("x", "1".into())]).is_ok()).into_iter().all(|agreed| agreed));
    }

    #[test]
    fn what_rank_0_does_or_fails_to_do_is_known_to_all() {
        let found = run(2, |ranks| {
            let word = ranks.from_root("word", || Ok("hello".into())).unwrap();
            let wrong = ranks.on_root("work", || Err::<(), _>(Error::usage("no such file"))).unwrap_err();
            let stop = ranks.pulse(ranks.rank() == 1).unwrap();
            let sum = ranks.sum("loss", 1.5 + ranks.rank() as f64).unwrap();
            (word, wrong.exit_code(), stop.stop, sum, ranks.pulse(false).unwrap().stop)
        });
        assert!(found.iter().all(|rank| *rank == ("hello".into(), 2, true, 4.0, false)), "{found:?}");
        let alone = Ranks::alone();
        assert_eq!((alone.rank(), alone.size(), alone.sum("x", 2.0).unwrap()), (0, 1, 2.0));
        assert_eq!(alone.on_root("x", || Ok(1)).unwrap(), Some(1));
    }

    #[test]
    fn results_are_gathered_and_the_failure_of_one_is_that_of_all() {
        let found = run(3, |ranks| {
            let rank = ranks.rank() as u8;
            let all = ranks.gather_results("work", Ok(vec![rank; rank.into()])).unwrap();
            let wrong = if rank == 1 { Err(Error::Training("the disk is full".into())) } else { Ok(Vec::new()) };
            (all, ranks.gather_results("work", wrong).unwrap_err().to_string())
        });
        for (rank, (all, error)) in found.into_iter().enumerate() {
            assert_eq!(all, [vec![], vec![1], vec![2, 2]]);
            assert_eq!(error, if rank == 1 { "the disk is full" } else { "rank 1: the disk is full" });
        }
        assert_eq!(Ranks::alone().gather_results("work", Ok(vec![7])).unwrap(), [[7]]);
    }

    #[test]
    fn the_slowest_rank_is_found() {
        assert_eq!(spread(&[2.0, 5.0, 1.0]), Some(Spread { slowest: 1, slowest_ms: 5.0, fastest_ms: 1.0 }));
        assert_eq!((spread(&[2.0]), spread(&[0.0, 1.0])), (None, None));
    }
}
