//! Several ranks, each with its GPU: the same bits for any number of them, with and without shards of the optimizer's state.
//!
//! Ranks are threads that share the emulated GPU, and exchange by way of the host. On a real GPU this needs one for
//! each rank.

use std::sync::{Arc, Mutex};

use taper::collective::ranks::{Summation, spread};
use taper::collective::{Ranks, Wire, local};
use taper::data::{Loader, TokenStream};
use taper::device::Device;
use taper::model::Gpt;
use taper::optim::Hyper;
use taper::random::{Purpose, uniform};
use taper::train::config::Precision;
use taper::train::engine::{Engine, OnGpu, Setup, StepBatch, Team};

use super::emulated::traced;
use super::{devices, models};

const T: usize = 24;
const MICRO_BATCHES: usize = 4;
const STEPS: u64 = 3;

fn loader(vocabulary: usize) -> Loader {
    let token = |i: u64| (uniform(3, Purpose::Test, i, 0) * vocabulary as f64) as u32;
    let stream = TokenStream::from_tokens((0..2000).map(token).collect(), vocabulary);
    Loader::new(Arc::new(stream), T, true, 7).unwrap()
}

/// Losses, weights, and both moments after some steps, as bits.
fn trained(device: Device, model: &Gpt, precision: Precision, team: Team) -> Vec<u64> {
    let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
    let setup = Setup { seed_dropout: 5, recompute: false, lanes: 4 };
    let (gpu, params) = (device.gpu().unwrap().unwrap(), model.initialise(1).unwrap());
    let ranks = team.ranks.clone();
    let overlaps = ranks.size() > 1 && team.bucket > 0 && team.summation.wire == Wire::F32;
    let mut engine = OnGpu::in_team(gpu, model, &params, hyper, setup, precision, false, team).unwrap();
    assert_eq!(engine.overlaps(), overlaps);
    let loader = loader(model.config().vocab_size);
    for step in 0..STEPS {
        let first_sequence = step * MICRO_BATCHES as u64;
        let loader = loader.clone();
        let batch = StepBatch { loader, first_sequence, micro_batch: 1, micro_batches: MICRO_BATCHES, step };
        engine.step(&batch, 3e-3).unwrap();
    }
    let mut bits: Vec<u64> = engine.finished().unwrap().iter().map(|(loss, _)| loss.to_bits()).collect();
    // How long each rank's GPU has computed is known to all.
    let pulse = ranks.pulse(false).unwrap();
    assert!(ranks.size() == 1 || (spread(&pulse.busy_ms).is_some() && pulse.busy_ms.len() == ranks.size()));
    let state = engine.state().unwrap();
    assert_eq!(engine.state_of(engine.held()).unwrap(), state.part(engine.held()));
    let weights = engine.params().flat().to_vec_f32().unwrap();
    let slots = state.slots.into_iter().flat_map(|(_, values)| values);
    bits.extend(weights.into_iter().chain(slots).map(|value| u64::from(value.to_bits())));
    bits
}

/// What every rank of a team has in the end.
fn in_team(device: Device, model: &Gpt, precision: Precision, size: usize, how: (Wire, bool, usize)) -> Vec<Vec<u64>> {
    on_ranks(size, |ranks| {
        let summation = Summation { ordered: true, wire: how.0 };
        trained(device, model, precision, Team { ranks, summation, shard_optimizer: how.1, bucket: how.2 })
    })
}

/// What `work` gives on every rank of a group.
fn on_ranks<T: Send>(size: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    let groups = Mutex::new(local::group(size).into_iter().map(Some).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        let (groups, work) = (&groups, &work);
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
fn the_number_of_gpus_changes_no_bit() {
    for (place, device) in devices().iter().filter(|(place, _)| place == "emulated") {
        let model = Gpt::new(models::dropout()).unwrap();
        for precision in [Precision::Fp32, Precision::Bf16] {
            let alone = trained(*device, &model, precision, Team::alone());
            // Sent after backward, or while it runs: each parameter on its own, several together.
            for (size, sharded, bucket) in
                [(2, false, 0), (4, false, 1), (2, true, 1), (4, true, 0), (4, true, 20_000), (2, false, 1 << 30)]
            {
                for of_rank in in_team(*device, &model, precision, size, (Wire::F32, sharded, bucket)) {
                    let differ = of_rank.iter().zip(&alone).filter(|(a, b)| a != b).count();
                    assert_eq!(
                        (of_rank.len(), differ),
                        (alone.len(), 0),
                        "{place}: {size} ranks, sharded {sharded}, bucket {bucket}"
                    );
                }
            }
            // Rounded on the way: near, and the same on every rank.
            let narrow = in_team(*device, &model, precision, 2, (Wire::Bf16, false, 1));
            assert!(narrow[0] == narrow[1] && narrow[0] != alone, "{place}");
            let loss = |bits: &[u64]| f64::from_bits(bits[STEPS as usize - 1]);
            assert!((loss(&narrow[0]) - loss(&alone)).abs() < 1e-2 * loss(&alone), "{place}");
        }
    }
}

#[test]
fn a_model_too_small_for_whole_chunks_of_the_norm_is_sharded_all_the_same() {
    for (_, device) in devices().iter().filter(|(place, _)| place == "emulated") {
        let model = Gpt::new(models::llama()).unwrap();
        let alone = trained(*device, &model, Precision::Fp32, Team::alone());
        for (rank, found) in in_team(*device, &model, Precision::Fp32, 4, (Wire::F32, true, 1)).iter().enumerate() {
            assert!(*found == alone, "rank {rank}");
        }
    }
}

#[test]
fn sums_are_put_beside_the_backward_pass_and_joined_before_the_update() {
    for (_, device) in devices().iter().filter(|(place, _)| place == "emulated") {
        let model = Gpt::new(models::gpt2()).unwrap();
        let traces = on_ranks(2, |ranks| {
            let summation = Summation { ordered: true, wire: Wire::F32 };
            let team = Team { ranks, summation, shard_optimizer: false, bucket: 1 };
            traced(|| drop(trained(*device, &model, Precision::Fp32, team)))
        });
        for trace in traces {
            // The first step: up to its update.
            let update = trace.iter().position(|work| work.starts_with("adamw")).unwrap();
            let at = |what: &str| (0..update).filter(|&i| trace[i] == what).collect::<Vec<_>>();
            let (begun, ended, joined) = (at("next to {"), at("}"), at("join"));
            assert_eq!((begun.len(), joined.len()), (model.layout().infos().len(), 1), "a bucket for each parameter");
            let norm = trace.iter().position(|work| work == "gradnorm_partial").unwrap();
            assert!(ended[ended.len() - 1] < joined[0] && joined[0] < norm && norm < update);
            // The pass continues between buckets.
            let between =
                |first: usize, last: usize| trace[first..last].iter().filter(|work| *work == "multiply").count();
            assert!(between(begun[0], joined[0]) > 6, "{:?}", &trace[begun[0]..joined[0]]);
            // Next to it: this rank's earlier lane, and the other rank.
            assert!(trace[begun[0] + 1..ended[0]].iter().all(|work| work == "reduce_add_f32"));
            assert_eq!(ended[0] - begun[0], 3);
        }
    }
}
