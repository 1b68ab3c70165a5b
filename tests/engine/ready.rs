//! When a parameter's gradient is complete, and what ranks make of knowing it: sums that are sent while backward runs.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use taper::arch::config::{ModelConfig, Position};
use taper::collective::ranks::Summation;
use taper::collective::{Ranks, Wire, local};
use taper::data::{Loader, TokenStream};
use taper::model::Gpt;
use taper::model::gpt::Pass;
use taper::optim::Hyper;
use taper::tape::{Gradients, Tape};
use taper::tensor::Tensor;
use taper::train::engine::{Engine, Native, Setup, StepBatch, Team};

use super::common::{Batch, bits, engine, llama, loss_and_grads, random_values, small};

/// GPT-2 and Llama, with tied embeddings and without.
fn shapes() -> Vec<ModelConfig> {
    let tied = |tie_embeddings: bool, config: ModelConfig| ModelConfig { tie_embeddings, ..config };
    let llama = llama(&small());
    vec![tied(true, small()), tied(false, small()), tied(true, llama.clone()), tied(false, llama)]
}

#[test]
fn every_gradient_is_final_when_its_hook_is_called_and_each_is_called_once() {
    for config in shapes() {
        for recompute in [false, true] {
            let (model, params) = engine(&config, &random_values(&config, 1));
            let batch = Batch::random(2, 2, config.context_length, config.vocab_size);
            let how = Pass { recompute, ..Pass::default() };
            let (_, expected) = loss_and_grads((&model, &params), &batch, &how);
            let seen = Rc::new(RefCell::new(Vec::new()));
            let mut grads = Gradients::zeros_like(&params).unwrap();
            let mut tape = Tape::training(&params, &mut grads);
            let into = seen.clone();
            tape.on_ready(Box::new(move |id, grads| {
                into.borrow_mut().push((id, bits(grads.of(id))));
                Ok(())
            }));
            let scale = 1.0 / batch.tokens.len() as f32;
            let loss = model.loss(&mut tape, &batch.tensor(), &batch.targets, scale, &how).unwrap();
            assert!(seen.borrow().is_empty(), "nothing is complete before backward, in {config:?}");
            tape.backward(&loss.root, Tensor::from_f32(&[1.0], &[1]).unwrap()).unwrap();
            let mut seen = seen.take();
            for (id, at_its_time) in &seen {
                assert_eq!(*at_its_time, bits(expected.of(*id)), "{} in {config:?}", params.layout().info(*id).name);
            }
            // Embeddings are complete last of all, also where they are the classifier's weight.
            assert_eq!(params.layout().info(seen.last().unwrap().0).name.split('.').next(), Some(last_of(&config)));
            seen.sort_by_key(|(id, _)| *id);
            let ids: Vec<usize> = seen.iter().map(|(id, _)| id.0).collect();
            assert_eq!(ids, (0..params.layout().infos().len()).collect::<Vec<_>>(), "{config:?}");
        }
    }
}

fn last_of(config: &ModelConfig) -> &'static str {
    if config.position == Position::Learned { "wpe" } else { "wte" }
}

const MICRO_BATCHES: usize = 8;

/// Losses, weights and moments after three steps, as bits.
fn trained(model: &Gpt, team: Team, recompute: bool) -> Vec<u64> {
    let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
    let setup = Setup { seed_dropout: 5, recompute, lanes: 4 };
    let (many, bucket) = (team.ranks.size() > 1, team.bucket);
    let mut engine = Native::in_team(model, model.initialise(1).unwrap(), hyper, setup, team).unwrap();
    assert_eq!(engine.overlaps(), many && bucket > 0);
    let vocabulary = model.config().vocab_size;
    let tokens = (0..2000u32).map(|i| (i * i + i / 7) % vocabulary as u32).collect();
    let stream = TokenStream::from_tokens(tokens, vocabulary);
    let loader = Loader::new(Arc::new(stream), model.config().context_length, true, 7).unwrap();
    let mut found = Vec::new();
    for step in 0..3 {
        let first_sequence = step * MICRO_BATCHES as u64;
        let loader = loader.clone();
        let batch = StepBatch { loader, first_sequence, micro_batch: 1, micro_batches: MICRO_BATCHES, step };
        engine.step(&batch, 3e-3).unwrap();
        found.extend(engine.finished().unwrap().iter().map(|(loss, _)| loss.to_bits()));
    }
    let state = engine.state().unwrap();
    let slots = state.slots.iter().flat_map(|(_, values)| values);
    let values: Vec<f32> = engine.params().flat().f32().iter().chain(slots).copied().collect();
    found.extend(values.iter().map(|value| u64::from(value.to_bits())));
    found
}

/// What every rank of a team has in the end.
fn in_team(model: &Gpt, size: usize, shard_optimizer: bool, bucket: usize, recompute: bool) -> Vec<Vec<u64>> {
    let groups = Mutex::new(local::group(size));
    std::thread::scope(|scope| {
        let groups = &groups;
        let start = |_| {
            scope.spawn(move || {
                let group = groups.lock().unwrap().pop().unwrap();
                let ranks = Ranks::of(Arc::new(group), 0);
                let summation = Summation { ordered: true, wire: Wire::F32 };
                trained(model, Team { ranks, summation, shard_optimizer, bucket }, recompute)
            })
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn what_is_sent_while_backward_runs_changes_no_bit() {
    for config in shapes() {
        // Several chunks of 16384 elements, of which shards are made.
        let wide = ModelConfig { n_embd: 48, head_dim: 12, mlp_dim: 150, vocab_size: 301, dropout: 0.1, ..config };
        let model = Gpt::new(wide).unwrap();
        let alone = trained(&model, Team::alone(), false);
        // Every parameter on its own; a few together; one bucket; all after backward.
        for (size, sharded, bucket, recompute) in [
            (2, false, 1, false),
            (2, true, 1, true),
            (4, false, 9000, true),
            (4, true, 9000, false),
            (2, false, 1 << 30, false),
            (4, true, 0, false),
        ] {
            for (rank, found) in in_team(&model, size, sharded, bucket, recompute).iter().enumerate() {
                let differ = found.iter().zip(&alone).filter(|(a, b)| a != b).count();
                let what = format!("rank {rank} of {size}, sharded {sharded}, bucket {bucket}, {:?}", model.config());
                assert_eq!((found.len(), differ), (alone.len(), 0), "{what}");
            }
        }
    }
}
