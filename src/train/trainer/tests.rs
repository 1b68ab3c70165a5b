//! Whole runs of a small model on the native engine, alone and as local ranks: what each optimizer rule must be able to do.

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

/// Trains up to `max_steps` as one rank; from the checkpoint of step `from` where there is one. Gives the losses of the log.
fn train(folder: &Path, ranks: Ranks, kind: OptimizerKind, max_steps: u64, from: Option<u64>) -> Vec<f64> {
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
        data: Arc::new(TokenStream::from_tokens(tokens, 257)).into(),
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
    let model = Gpt::new(ModelConfig::gpt2(2, 2, 16, 8, 257)).unwrap();
    let hyper = Hyper { optimizer, clip_norm: Some(1.0) };
    let setup = Setup { seed_dropout: 1, recompute: false, lanes: 4 };
    let summation = Summation { ordered: true, wire: Wire::F32 };
    let team = Team { ranks, summation, shard_optimizer: true, bucket: 1 };
    let engine = Native::in_team(&model, model.initialise(1).unwrap(), hyper, setup, team).unwrap();
    let mut losses = Losses(Vec::new());
    let mut trainer = Trainer::new(job, &model, Box::new(engine), None).unwrap();
    if let Some(step) = from {
        let (state, arena) = state::read(&Store::of_run(folder).path(step)).unwrap();
        trainer.restore(state, &arena).unwrap();
    }
    trainer.observe(&mut losses);
    trainer.run(&AtomicBool::new(false)).unwrap();
    drop(trainer);
    losses.0
}

/// As [`train`], as so many local ranks; gives the losses that rank 0 tells.
fn on_ranks(folder: &Path, size: usize, kind: OptimizerKind, max_steps: u64, from: Option<u64>) -> Vec<f64> {
    let group = Mutex::new(local::group(size));
    let mut found: Vec<(usize, Vec<f64>)> = std::thread::scope(|scope| {
        let start = |_| {
            scope.spawn(|| {
                let rank = group.lock().unwrap().pop().unwrap();
                let number = crate::collective::Collective::rank(&rank);
                (number, train(folder, Ranks::of(Arc::new(rank), number), kind, max_steps, from))
            })
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    found.sort_by_key(|(rank, _)| *rank);
    found.swap_remove(0).1
}

/// Each rule trains, is checkpointed under its slots' names, is resumed to the same bytes, and is sharded over ranks.
#[test]
fn every_rule_trains_is_saved_resumed_and_sharded() {
    for (kind, slots) in [(OptimizerKind::Adamw, &["m", "v"][..]), (OptimizerKind::Momentum, &["momentum"])] {
        let optimizer = OptimizerConfig { kind, ..OptimizerConfig::default() };
        assert_eq!(rule::of(&optimizer).slots(), slots);
        assert_eq!(rule::state_bytes(&optimizer), 4 * slots.len());
        let arena = |folder: &Path, step| {
            std::fs::read(Store::of_run(folder).path(step).join("training/arena.safetensors")).unwrap()
        };
        let alone = tempfile::tempdir().unwrap();
        let losses = train(alone.path(), Ranks::alone(), kind, 6, None);
        assert!(losses.len() == 6 && losses[5] < losses[0] - 0.05, "{kind:?}: {losses:?}");
        let (_, saved) = state::read(&Store::of_run(alone.path()).path(6)).unwrap();
        assert!(saved.slots.iter().map(|(name, _)| name.as_str()).eq(slots.iter().copied()), "{kind:?}");
        assert!(saved.slots.iter().all(|(_, values)| values.iter().any(|&value| value != 0.0)), "{kind:?}");
        for size in [1, 2, 4] {
            let folder = tempfile::tempdir().unwrap();
            let mut found = on_ranks(folder.path(), size, kind, 3, None);
            found.extend(on_ranks(folder.path(), size, kind, 6, Some(3)));
            assert_eq!(found, losses, "{kind:?}, {size} ranks");
            for step in [3, 6] {
                assert!(arena(folder.path(), step) == arena(alone.path(), step), "{kind:?}, {size} ranks, step {step}");
            }
        }
    }
}

/// A checkpoint of one rule is no checkpoint of another.
#[test]
fn another_rules_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), Ranks::alone(), OptimizerKind::Momentum, 3, None);
    let model = Gpt::new(ModelConfig::gpt2(2, 2, 16, 8, 257)).unwrap();
    let setup = Setup { seed_dropout: 1, recompute: false, lanes: 1 };
    let mut engine = Native::new(&model, model.initialise(1).unwrap(), Hyper::default(), setup).unwrap();
    let (_, arena) = state::read(&Store::of_run(folder.path()).path(3)).unwrap();
    let error = engine.restore(&arena, 3, None).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("(momentum)"), "{error}");
}
