//! Whole runs of a small model on the native engine, alone and as local ranks: what each optimizer rule must be able to do.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::arch::ModelConfig;
use crate::checkpoint::config::CheckpointConfig;
use crate::checkpoint::state;
use crate::collective::{Wire, local, ranks::Summation};
use crate::data::TokenStream;
use crate::eval::config::EvalConfig;
use crate::optim::config::{OptimizerKind, ScheduleKind};
use crate::optim::{Hyper, rule};
use crate::sample::config::SampleConfig;
use crate::setting::Interval;
use crate::train::engine::{Native, Setup, Team};

/// Tokens of the model: those of the bytes' tokenizer.
const VOCABULARY: usize = 257;

/// Trains a model of this width from step `steps.start`, where there is a checkpoint unless it is 0, to `steps.end`, as
/// one rank. Gives the losses that are told.
fn train(folder: &Path, ranks: Ranks, kind: OptimizerKind, width: usize, steps: Range<u64>) -> Vec<f64> {
    train_with_rows(folder, ranks, kind, width, VOCABULARY, steps)
}

/// As [`train`], with so many engine rows.
fn train_with_rows(
    folder: &Path,
    ranks: Ranks,
    kind: OptimizerKind,
    width: usize,
    rows: usize,
    steps: Range<u64>,
) -> Vec<f64> {
    let Range { start, end: max_steps } = steps;
    struct Losses(Vec<f64>);
    impl Observer for Losses {
        fn event(&mut self, event: &Event) {
            if let Event::Step(step) = event {
                self.0.push(step.loss);
            }
        }
    }
    let tokens = (0..400).map(|i| (i * i * 7 + i / 3) % 23).collect();
    let optimizer = OptimizerConfig { kind, lr: 2e-2, ..OptimizerConfig::default() };
    let schedule = ScheduleConfig { kind: ScheduleKind::Constant, ..ScheduleConfig::default() };
    let (run, train) = (RunConfig::default(), TrainConfig::default());
    let checkpoint = CheckpointConfig { every: Interval::Steps(3), ..CheckpointConfig::default() };
    let sample = SampleConfig { every: Interval::Off, ..SampleConfig::default() };
    let (stability, eval, tokenizer) = (StabilityConfig::default(), EvalConfig::default(), Tokenizer::bytes());
    let card = |_: &TrainingState, _: Findings<'_>| Ok(Card::default());
    let job = Job {
        folder,
        run: &run,
        train: &train,
        optimizer: &optimizer,
        schedule: &schedule,
        stability: &stability,
        eval: &eval,
        checkpoint: &checkpoint,
        sample: &sample,
        tokenizer: &tokenizer,
        data: Arc::new(TokenStream::from_tokens(tokens, VOCABULARY)).into(),
        shuffle: true,
        val: None,
        tasks: &[],
        micro_batch: 1,
        global_batch: 4,
        max_steps,
        config_hash: String::new(),
        hardware: String::new(),
        base: None,
        card: &card,
        peak_flops: None,
        ranks: ranks.clone(),
        is_shared: true,
    };
    let model = Gpt::with_rows(ModelConfig::gpt2(2, 2, width, 8, VOCABULARY), None, rows).unwrap();
    let hyper = Hyper { optimizer, clip_norm: Some(1.0) };
    let setup = Setup { seed_dropout: 1, recompute: false, lanes: 4 };
    let summation = Summation { ordered: true, wire: Wire::F32 };
    let team = Team { ranks, summation, shard_optimizer: true, bucket: 1 };
    let engine = Native::in_team(&model, model.initialise(1).unwrap(), hyper, setup, team).unwrap();
    let mut losses = Losses(Vec::new());
    let mut trainer = Trainer::new(job, &model, Box::new(engine), None).unwrap();
    if start > 0 {
        let (state, arena) = state::read(&Store::of_run(folder).path(start)).unwrap();
        trainer.restore(state, &arena).unwrap();
    }
    trainer.observe(&mut losses);
    trainer.run(&AtomicBool::new(false)).unwrap();
    drop(trainer);
    losses.0
}

/// As [`train`], as so many local ranks; gives the losses that rank 0 tells.
fn on_ranks(folder: &Path, size: usize, kind: OptimizerKind, width: usize, steps: Range<u64>) -> Vec<f64> {
    on_ranks_with_rows(folder, size, kind, width, VOCABULARY, steps)
}

fn on_ranks_with_rows(
    folder: &Path,
    size: usize,
    kind: OptimizerKind,
    width: usize,
    rows: usize,
    steps: Range<u64>,
) -> Vec<f64> {
    let group = Mutex::new(local::group(size));
    let mut found: Vec<(usize, Vec<f64>)> = std::thread::scope(|scope| {
        let start = |_| {
            scope.spawn(|| {
                let rank = group.lock().unwrap().pop().unwrap();
                let number = crate::collective::Collective::rank(&rank);
                let ranks = Ranks::of(Arc::new(rank), number);
                (number, train_with_rows(folder, ranks, kind, width, rows, steps.clone()))
            })
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    found.sort_by_key(|(rank, _)| *rank);
    found.swap_remove(0).1
}

fn arena(folder: &Path, step: u64) -> Vec<u8> {
    std::fs::read(Store::of_run(folder).path(step).join("training/arena.safetensors")).unwrap()
}

/// Each rule trains, is checkpointed under its slots' names, is resumed to the same bytes, and is sharded over ranks.
#[test]
fn every_rule_trains_is_saved_resumed_and_sharded() {
    for (kind, slots) in [(OptimizerKind::Adamw, &["m", "v"][..]), (OptimizerKind::Momentum, &["momentum"])] {
        let optimizer = OptimizerConfig { kind, ..OptimizerConfig::default() };
        assert_eq!(rule::of(&optimizer).slots(), slots);
        assert_eq!(rule::state_bytes(&optimizer), 4 * slots.len());
        let alone = tempfile::tempdir().unwrap();
        let losses = train(alone.path(), Ranks::alone(), kind, 16, 0..6);
        assert!(losses.len() == 6 && losses[5] < losses[0] - 0.05, "{kind:?}: {losses:?}");
        let (_, saved) = state::read(&Store::of_run(alone.path()).path(6)).unwrap();
        assert!(saved.slots.iter().map(|(name, _)| name.as_str()).eq(slots.iter().copied()), "{kind:?}");
        assert!(saved.slots.iter().all(|(_, values)| values.iter().any(|&value| value != 0.0)), "{kind:?}");
        for size in [1, 2, 4] {
            let folder = tempfile::tempdir().unwrap();
            let mut found = on_ranks(folder.path(), size, kind, 16, 0..3);
            found.extend(on_ranks(folder.path(), size, kind, 16, 3..6));
            assert_eq!(found, losses, "{kind:?}, {size} ranks");
            for step in [3, 6] {
                assert!(arena(folder.path(), step) == arena(alone.path(), step), "{kind:?}, {size} ranks, step {step}");
            }
        }
    }
}

/// Where ranks hold whole parameters that are no whole chunks of the checkpoint's file, what they write is put together
/// first.
#[test]
fn parts_between_parameters_need_not_be_whole_chunks_of_the_file() {
    let (kind, width) = (OptimizerKind::Momentum, 224);
    let (alone, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let losses = train(alone.path(), Ranks::alone(), kind, width, 0..3);
    assert_eq!(on_ranks(shared.path(), 2, kind, width, 0..3), losses);
    let bytes = arena(alone.path(), 3);
    assert!(bytes.len() > 8 << 20, "an arena of large chunks");
    assert!(arena(shared.path(), 3) == bytes);
}

/// Engine rows stand in no checkpoint: one without them is resumed with them, on any number of ranks, and the other way
/// round.
#[test]
fn a_checkpoint_knows_nothing_of_engine_rows() {
    let (kind, rows) = (OptimizerKind::Adamw, 320);
    let plain = tempfile::tempdir().unwrap();
    let mut losses = train(plain.path(), Ranks::alone(), kind, 16, 0..6);
    let plain_arenas = [arena(plain.path(), 3), arena(plain.path(), 6)];
    losses.extend(train(plain.path(), Ranks::alone(), kind, 16, 6..9));
    let mut arenas: Vec<Vec<u8>> = Vec::new();
    for size in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let mut found = train(folder.path(), Ranks::alone(), kind, 16, 0..3);
        assert!(arena(folder.path(), 3) == plain_arenas[0]);
        found.extend(on_ranks_with_rows(folder.path(), size, kind, 16, rows, 3..6));
        arenas.push(arena(folder.path(), 6));
        assert_eq!(arenas[0].len(), plain_arenas[1].len());
        found.extend(train(folder.path(), Ranks::alone(), kind, 16, 6..9));
        // Products of another size may sum in another order.
        let apart = found.iter().zip(&losses).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(found.len() == 9 && apart < 1e-5, "{size} ranks: {found:?} where {losses:?} was expected");
    }
    assert!(arenas[0] == arenas[1], "the number of ranks changes nothing");
}

/// A checkpoint of one rule is no checkpoint of another.
#[test]
fn another_rules_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), Ranks::alone(), OptimizerKind::Momentum, 16, 0..3);
    let model = Gpt::new(ModelConfig::gpt2(2, 2, 16, 8, 257)).unwrap();
    let setup = Setup { seed_dropout: 1, recompute: false, lanes: 1 };
    let mut engine = Native::new(&model, model.initialise(1).unwrap(), Hyper::default(), setup).unwrap();
    let (_, arena) = state::read(&Store::of_run(folder.path()).path(3)).unwrap();
    let error = engine.restore(&arena, 3, None).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("(momentum)"), "{error}");
}
