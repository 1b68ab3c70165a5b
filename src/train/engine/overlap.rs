//! Gradients that are sent while the backward pass runs (processes on CPUs).
//!
//! A process that has several lanes runs one after the other, so only its last backward pass can overlap. When a bucket
//! of that pass is complete, the sums of the lanes before are added to it, and a copy goes to a thread that adds it
//! over all ranks; the main thread continues. The tree of additions is that of whole buffers, so the bits are, too. The
//! thread makes all collectives of that time, in the order of the buckets, and is waited for before the main thread
//! makes another: every rank makes the same calls in the same order.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::Team;
use super::buckets::Buckets;
use crate::collective::ordered::Shards;
use crate::error::{Error, Result};
use crate::tape::{Gradients, Params, ReadyHook};
use crate::train::lanes::{Earlier, LaneTree, StepGradients};

/// The elements of a bucket, and their gradients.
type Filled = (Range<usize>, Vec<f32>);

/// Runs this rank's `count` micro-batches, and adds gradients over all ranks meanwhile. Gives the rank's loss and the
/// sum of all ranks' gradients (or, where there are `shards`, of this rank's alone). `run` computes a micro-batch and
/// calls the hook it is given; `done` is called when nothing is left but to wait.
///
/// # Errors
/// Those of `run`; if a rank is gone or late.
pub(super) fn step<'t>(
    team: &Team,
    buckets: &Buckets,
    lanes: &'t mut LaneTree,
    params: &Params,
    shards: Option<&Shards>,
    count: usize,
    mut run: impl FnMut(usize, &mut Gradients, Option<ReadyHook<'_>>) -> Result<f64>,
    done: impl FnOnce(),
) -> Result<(f64, StepGradients<'t>)> {
    let (sender, filled) = channel();
    let (computed, summed) = std::thread::scope(|scope| {
        let sums = scope.spawn(move || reduce_all(team, filled, shards));
        let computed = lanes.step_in_pieces(params, count, |micro, grads, earlier| {
            let Some(earlier) = earlier else { return run(micro, grads, None) };
            let mut pass = buckets.pass();
            let send =
                |bucket: usize, grads: &mut Gradients| hand_over(&sender, &earlier, &buckets.ranges()[bucket], grads);
            let hook: ReadyHook<'_> =
                Box::new(|id, grads| pass.complete(id).try_for_each(|bucket| send(bucket, grads)));
            let loss = run(micro, grads, Some(hook))?;
            pass.rest().try_for_each(|bucket| send(bucket, grads))?;
            Ok(loss)
        });
        done();
        drop(sender);
        (computed, sums.join())
    });
    // The thread's own error is the reason of the main thread's.
    let summed = summed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let (loss, mut grads) = computed?;
    let flat = grads.get_mut().flat_mut().f32_mut();
    summed.into_iter().for_each(|(range, data)| flat[range].copy_from_slice(&data));
    Ok((loss, grads))
}

/// Completes a bucket with the lanes before, and sends a copy on its way.
fn hand_over(
    sender: &Sender<Filled>,
    earlier: &Earlier<'_>,
    range: &Range<usize>,
    grads: &mut Gradients,
) -> Result<()> {
    earlier.add_to(grads, range.clone());
    let data = grads.flat().f32()[range.clone()].to_vec();
    let gone = |_| Error::Device("the thread that sends gradients has failed".into());
    sender.send((range.clone(), data)).map_err(gone)
}

/// Adds the buckets over all ranks, one after the other, until no more come.
fn reduce_all(team: &Team, filled: Receiver<Filled>, shards: Option<&Shards>) -> Result<Vec<Filled>> {
    let mut summed = Vec::new();
    for (range, mut data) in filled {
        team.reduce(&mut data, &range, shards)?;
        summed.push((range, data));
    }
    Ok(summed)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::collective::local::{self, Local};
    use crate::collective::{Call, Collective, Ranks};
    use crate::device::Device;
    use crate::tape::{Layout, ParamId};

    /// A rank that tells when a sum of gradients is finished.
    struct Telling {
        rank: Local,
        finished: Mutex<Sender<()>>,
    }

    impl Collective for Telling {
        fn rank(&self) -> usize {
            self.rank.rank()
        }

        fn size(&self) -> usize {
            self.rank.size()
        }

        fn engine(&self) -> &'static str {
            "telling"
        }

        fn all_to_all(&self, call: Call, send: &[&[u8]], receive: &mut [&mut [u8]]) -> Result<()> {
            self.rank.all_to_all(call, send, receive)?;
            // A rank that has failed listens no more.
            let _ = self.finished.lock().unwrap().send(());
            Ok(())
        }

        fn all_reduce(&self, call: Call, data: &mut [f32]) -> Result<()> {
            self.rank.all_reduce(call, data)
        }

        fn abort(&self, reason: &str, code: u8) {
            self.rank.abort(reason, code);
        }
    }

    fn params() -> Params {
        let mut layout = Layout::default();
        for name in ["first", "middle", "last"] {
            layout.push(name, &[16]);
        }
        Params::zeros(layout, Device::Cpu).unwrap()
    }

    /// Two ranks of two lanes of two micro-batches each; `compute` stands for the last backward pass of each.
    fn on_two_ranks<T: Send>(
        compute: impl Fn(&Ranks, &Receiver<()>, &mut Gradients, ReadyHook<'_>) -> Result<()> + Sync,
        then: impl Fn(Result<(f64, StepGradients<'_>)>) -> T + Sync,
    ) -> Vec<T> {
        let ranks = Mutex::new(local::group(2));
        std::thread::scope(|scope| {
            let (ranks, compute, then) = (&ranks, &compute, &then);
            let start = |_| {
                scope.spawn(move || {
                    let rank = ranks.lock().unwrap().pop().unwrap();
                    let (number, (sender, finished)) = (rank.rank(), mpsc::channel());
                    let group = std::sync::Arc::new(Telling { rank, finished: Mutex::new(sender) });
                    let team = Team { ranks: Ranks::of(group, number), bucket: 1, ..Team::alone() };
                    let (params, mut lanes) = (params(), LaneTree::new(2).unwrap());
                    let buckets = Buckets::new(params.layout(), 1);
                    let run = |micro: usize, grads: &mut Gradients, hook: Option<ReadyHook<'_>>| {
                        assert_eq!(hook.is_some(), micro == 3, "micro-batch {micro}");
                        grads.flat_mut().f32_mut().iter_mut().for_each(|value| *value += 1.0 + number as f32);
                        hook.map_or(Ok(()), |hook| compute(&team.ranks, &finished, grads, hook)).map(|()| 1.0)
                    };
                    then(super::step(&team, &buckets, &mut lanes, &params, None, 4, run, || {}))
                })
            };
            let threads: Vec<_> = [0, 1].map(start).into_iter().collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn a_bucket_is_summed_over_ranks_before_the_backward_pass_has_ended() {
        let sums = on_two_ranks(
            |_, finished, grads, mut hook| {
                for id in [2, 1] {
                    hook(ParamId(id), grads)?;
                    // An all-reduce is two exchanges. Were they put off to the end of this pass, they would not come.
                    for _ in 0..2 {
                        finished.recv_timeout(Duration::from_secs(60)).expect("a sum while this pass runs");
                    }
                    // What is sent is as it was.
                    grads.of_mut(ParamId(0))[3] += 1.0;
                }
                // The first parameter is complete without a word.
                Ok(())
            },
            |result| result.map(|(loss, grads)| (loss, grads.get().flat().f32().to_vec())).unwrap(),
        );
        for (loss, flat) in sums {
            let mut expected = vec![12.0; 48];
            expected[3] = 16.0;
            assert_eq!((loss, flat), (4.0, expected));
        }
    }

    #[test]
    fn a_rank_that_fails_in_its_backward_pass_does_not_hang_the_others() {
        let errors = on_two_ranks(
            |ranks, _, grads, mut hook| {
                if ranks.rank() > 0 {
                    return hook(ParamId(2), grads);
                }
                let error = Error::Training("no memory".into());
                ranks.abort(&error);
                Err(error)
            },
            |result| result.err().map(|error| error.to_string()).unwrap_or_default(),
        );
        assert!(errors.iter().all(|error| error.contains("no memory")), "{errors:?}");
    }
}
