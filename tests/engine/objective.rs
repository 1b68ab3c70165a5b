//! The objective: weights of tokens, steps in which little or nothing counts, and the same bits on any number of ranks.

use std::sync::{Arc, Mutex};

use taper::collective::ranks::Summation;
use taper::collective::{Collective, Ranks, Wire, local};
use taper::data::{Batch, IGNORE, Loader};
use taper::model::Gpt;
use taper::optim::config::OptimizerConfig;
use taper::optim::{Class, Hyper, Outcome};
use taper::train::engine::{Engine, Native, Setup, StepBatch, Team};
use taper::train::objective::{NextToken, Objective};

use super::common::small;

const T: usize = 8;
/// Micro-batches of a step, of one row each: four lanes of two.
const ROWS: usize = 8;

/// Row `i`; its first `counted` targets count.
fn row(i: usize, counted: usize, weights: &[f32]) -> Batch {
    let token = |t: usize| ((i * 31 + t * t * 7 + 3) % 23) as u32;
    let target = |t: usize| if t < counted { token(t + 1) } else { IGNORE };
    let (inputs, targets) = ((0..T).map(token).collect(), (0..T).map(target).collect());
    Batch { inputs, targets, weights: weights.to_vec(), begins: Vec::new() }
}

/// What is left after training on these rows, [`ROWS`] of them a step: loss and outcome of each step, weights and state
/// as bits.
fn train(rows: &[Batch], team: Team, weight_decay: f64) -> (Vec<(f64, Outcome)>, Vec<u32>) {
    let model = Gpt::new(small()).unwrap();
    let optimizer = OptimizerConfig { weight_decay, ..OptimizerConfig::default() };
    let hyper = Hyper { optimizer, clip_norm: Some(1.0) };
    let setup = Setup { seed_dropout: 5, recompute: false, lanes: 4 };
    let mut engine = Native::in_team(&model, model.initialise(1).unwrap(), hyper, setup, team).unwrap();
    let mut found = Vec::new();
    for step in 0..(rows.len() / ROWS) as u64 {
        let (loader, first_sequence) = (Loader::of_rows(rows.to_vec()), step * ROWS as u64);
        let batch = StepBatch { loader, first_sequence, micro_batch: 1, micro_batches: ROWS, step };
        engine.step(&batch, 1e-2).unwrap();
        found.extend(engine.finished().unwrap());
    }
    let state = engine.state().unwrap();
    let weights = engine.params().flat().f32().iter().chain(state.slots.iter().flat_map(|(_, values)| values));
    (found, weights.map(|value| value.to_bits()).collect())
}

fn alone(rows: &[Batch]) -> (Vec<(f64, Outcome)>, Vec<u32>) {
    train(rows, Team::alone(), 0.1)
}

/// Ranks with unequal shares of what counts, one of them with nothing, give the bits of one process.
#[test]
fn ranks_with_unequal_counts_and_with_none_change_no_bit() {
    // The first quarter of a step, a rank's of four, counts for nothing in it; the second step has weights, the third
    // has nothing.
    let counts = [0, 0, 1, 8, 3, 0, 5, 2];
    let weight = |i: usize| (0..T).map(|t| [0.5, 0.0, 2.0, 0.25][(i + t) % 4]).collect::<Vec<f32>>();
    let mut rows: Vec<Batch> = (0..ROWS).map(|i| row(i, counts[i], &[])).collect();
    let weights = |i: usize| if i % 3 == 2 { Vec::new() } else { weight(i) };
    rows.extend((0..ROWS).map(|i| row(i + 8, counts[i], &weights(i))));
    rows.extend((0..ROWS).map(|i| row(i + 16, 0, &[])));
    rows.extend((0..ROWS).map(|i| row(i + 24, counts[ROWS - 1 - i], &[])));
    let expected = alone(&rows);
    assert!(
        expected.0.iter().all(|(loss, outcome)| loss.is_finite() && outcome.class.is_applied()),
        "{:?}",
        expected.0
    );
    assert_eq!((expected.0[2].0, expected.0[2].1.norm), (0.0, 0.0));
    for size in [1, 2, 4] {
        for (shard_optimizer, bucket) in [(false, 0), (true, 0), (true, 1)] {
            let group = Mutex::new(local::group(size));
            std::thread::scope(|scope| {
                let start = |_| {
                    scope.spawn(|| {
                        let rank = group.lock().unwrap().pop().unwrap();
                        let number = rank.rank();
                        let ranks = Ranks::of(Arc::new(rank), number);
                        let summation = Summation { ordered: true, wire: Wire::F32 };
                        train(&rows, Team { ranks, summation, shard_optimizer, bucket }, 0.1)
                    })
                };
                let threads: Vec<_> = (0..size).map(start).collect();
                for thread in threads {
                    let found = thread.join().unwrap();
                    assert!(found == expected, "{size} ranks, sharded {shard_optimizer}, bucket {bucket}");
                }
            });
        }
    }
}

/// Nothing counts: loss 0, gradient 0, nothing is NaN, and without weight decay not a bit of the model changes.
#[test]
fn a_step_in_which_nothing_counts_teaches_nothing() {
    let empty: Vec<Batch> = (0..ROWS).map(|i| row(i, 0, &[])).collect();
    let zeros: Vec<Batch> = (0..ROWS).map(|i| row(i, T, &[0.0; T])).collect();
    let before = Gpt::new(small()).unwrap().initialise(1).unwrap();
    for rows in [empty, zeros] {
        let (found, bits) = train(&rows, Team::alone(), 0.0);
        let (loss, outcome) = found[0];
        assert_eq!((loss, outcome.norm, outcome.class), (0.0, 0.0, Class::Finite));
        let weights: Vec<u32> = before.flat().f32().iter().map(|value| value.to_bits()).collect();
        assert!(bits[..weights.len()] == weights && bits[weights.len()..].iter().all(|&moment| moment == 0));
        let batch = StepBatch {
            loader: Loader::of_rows(rows),
            first_sequence: 0,
            micro_batch: 1,
            micro_batches: ROWS,
            step: 0,
        };
        assert!(NextToken.is_empty(&batch) && NextToken.denominator(&batch) == 1.0);
    }
}

/// A target with weight 2 is a target seen twice, and one with weight 0 is one that does not count.
#[test]
fn weights_are_counts() {
    let weights = |i: usize| (0..T).map(|t| if (i + t).is_multiple_of(3) { 0.0 } else { 2.0 }).collect::<Vec<f32>>();
    let weighted: Vec<Batch> = (0..ROWS).map(|i| row(i, T, &weights(i))).collect();
    let ignored = weighted.iter().map(|row| {
        let of = |(&target, &weight): (&u32, &f32)| if weight == 0.0 { IGNORE } else { target };
        let targets = row.targets.iter().zip(&row.weights).map(of).collect();
        Batch { targets, weights: Vec::new(), ..row.clone() }
    });
    let ((found, _), (expected, _)) = (alone(&weighted), alone(&ignored.collect::<Vec<_>>()));
    let ((loss, outcome), (wanted, expected)) = (found[0], expected[0]);
    assert!((loss - wanted).abs() < 1e-12 * wanted, "{loss} against {wanted}");
    assert!((outcome.norm - expected.norm).abs() < 1e-5 * expected.norm, "{} against {}", outcome.norm, expected.norm);
}
