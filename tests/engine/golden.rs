//! Ten steps of a tiny model: the same losses as ever, bit for bit on hardware of a recorded kind, to 1e-5 elsewhere.
//!
//! `tests/fixtures/golden_losses.json` holds losses by hardware kind (`CpuInfo::kind`: vector extensions and cache sizes,
//! which the gemm crate's blocking follows). This is no truth about GPTs, which `tests/engine` has: it notices when a change
//! of the engine changes results, whether anybody meant to or not. After a change that is meant to, or on a machine of a new
//! kind whose bits should be kept:
//!
//! ```text
//! TAPER_RECORD_GOLDEN=1 cargo test --release --test engine golden
//! ```
//!
//! which replaces this kind's entry (and, since the other kinds' entries no longer hold, every entry that is further than
//! 1e-5 away).

use crate::models;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use taper::arch::ModelConfig;
use taper::device::info::CpuInfo;
use taper::model::Gpt;
use taper::model::gpt::Pass;
use taper::nn::Dropout;
use taper::optim::{Hyper, Optimizer};
use taper::random::{Purpose, uniform};
use taper::tape::Tape;
use taper::tensor::Tensor;
use taper::train::lanes::LaneTree;

/// The steps of a run.
const STEPS: u64 = 10;
/// How far losses may be apart on other hardware, relative.
const ELSEWHERE: f64 = 1e-5;

const MICRO_BATCH: usize = 2;
const MICRO_BATCHES: usize = 4;

/// The two models: between them every operator of the engine but ReLU^2 and the exact GELU.
fn models() -> [(&'static str, ModelConfig); 2] {
    let gpt2 = ModelConfig { dropout: 0.1, ..ModelConfig::gpt2(2, 4, 64, 48, 131) };
    let llama = ModelConfig { mlp_dim: 192, dropout: 0.0, ..models::llama(&gpt2) };
    [("gpt2", gpt2), ("llama", llama)]
}

/// What is run, for readers of the file; a record of another setup does not count.
fn setup() -> Value {
    let models: Map<String, Value> =
        models().into_iter().map(|(name, config)| (name.to_string(), serde_json::to_value(config).unwrap())).collect();
    json!({
        "models": models,
        "steps": STEPS,
        "batch": format!("{MICRO_BATCHES} micro-batches of {MICRO_BATCH} sequences, in 2 lanes"),
        "seed_init": 1,
        "seed_dropout": 2,
        "optimizer": "AdamW, lr 3e-3, betas 0.9 and 0.95, eps 1e-8, weight decay 0.1, clipped to a norm of 1",
        "tokens": "token i of sequence s of a step: the product of two uniform numbers (Philox, seed 3, purpose test) \
                   times the vocabulary, so that small ids are common",
    })
}

/// `t + 1` tokens of a sequence of the data.
fn tokens(sequence: u64, t: usize, vocab: usize) -> Vec<u32> {
    let number = |i: usize, part: u64| uniform(3, Purpose::Test, sequence, 2 * i as u64 + part);
    (0..=t).map(|i| (number(i, 0) * number(i, 1) * vocab as f64) as u32).collect()
}

/// The loss of every step: the mean over its tokens, before the update.
fn losses(config: &ModelConfig) -> Vec<f64> {
    let model = Gpt::new(config.clone()).unwrap();
    let mut params = model.initialise(1).unwrap();
    let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
    let mut optimizer = Optimizer::new(hyper, &params).unwrap();
    let mut lanes = LaneTree::new(2).unwrap();
    let t = config.context_length;
    let count = MICRO_BATCHES * MICRO_BATCH * t;
    let step = |step: u64| {
        let (sum, grads) = lanes
            .step(&params, MICRO_BATCHES, |micro, grads| {
                let rows = micro * MICRO_BATCH..(micro + 1) * MICRO_BATCH;
                let first = step * (MICRO_BATCHES * MICRO_BATCH) as u64;
                let data: Vec<Vec<u32>> =
                    rows.clone().map(|row| tokens(first + row as u64, t, config.vocab_size)).collect();
                let inputs: Vec<u32> = data.iter().flat_map(|row| row[..t].iter().copied()).collect();
                let targets: Vec<u32> = data.iter().flat_map(|row| row[1..].iter().copied()).collect();
                let dropout = (config.dropout > 0.0).then(|| Dropout {
                    seed: 2,
                    step,
                    probability: config.dropout,
                    sequences: rows.map(|row| row as u32).collect(),
                });
                let mut tape = Tape::training(&params, grads);
                let inputs = Tensor::from_u32(&inputs, &[MICRO_BATCH, t])?;
                let how = Pass { dropout, ..Pass::default() };
                let loss = model.loss(&mut tape, &inputs, &targets, 1.0 / count as f32, &how)?;
                tape.backward(&loss.root, Tensor::from_f32(&[1.0], &[1])?)?;
                loss.sum()
            })
            .unwrap();
        let loss = sum / count as f64;
        assert!(optimizer.step(&mut params, grads.get(), loss, 3e-3).class.is_applied());
        loss
    };
    (0..STEPS).map(step).collect()
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden_losses.json")
}

/// The recorded losses of a model, by kind.
fn recorded(golden: &Value, kind: &str, model: &str) -> Option<Vec<f64>> {
    let list = golden["losses"].get(kind)?.get(model)?.as_array()?;
    list.iter().map(Value::as_f64).collect()
}

/// The largest relative distance.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

#[test]
fn ten_steps_lose_what_they_always_lost() {
    let kind = CpuInfo::of_this_machine().kind();
    let ours: Vec<(&str, Vec<f64>)> = models().iter().map(|(name, config)| (*name, losses(config))).collect();
    for (name, losses) in &ours {
        // Whatever is recorded: the start is the loss of a guess, and it goes down.
        assert!((losses[0] - 131f64.ln()).abs() < 0.1, "{name}: {losses:?}");
        assert!(losses[9] < losses[0] - 0.3, "{name} does not learn: {losses:?}");
    }
    if std::env::var_os("TAPER_RECORD_GOLDEN").is_some() {
        return record(&kind, &ours);
    }
    let golden: Value = serde_json::from_slice(&std::fs::read(file()).unwrap()).unwrap();
    assert_eq!(golden["setup"], setup(), "{} is of another setup; record it again", file().display());
    let kinds: Vec<&String> = golden["losses"].as_object().unwrap().keys().collect();
    assert!(!kinds.is_empty());
    for (name, losses) in &ours {
        for other in &kinds {
            let expected = recorded(&golden, other, name).unwrap();
            let off = apart(losses, &expected);
            assert!(off < ELSEWHERE, "{name} is {off:e} from the losses of \"{other}\":\n{losses:?}\n{expected:?}");
            if **other == kind {
                assert_eq!(
                    losses, &expected,
                    "{name}: other bits than recorded on {kind}; if a change of the engine meant that, record them again \
                     (see the top of tests/engine/golden.rs)"
                );
            }
        }
    }
    if !kinds.contains(&&kind) {
        println!("no losses of \"{kind}\" are recorded: compared to {ELSEWHERE:e} with those of {kinds:?}");
    }
}

fn record(kind: &str, ours: &[(&str, Vec<f64>)]) {
    let old: Value = std::fs::read(file()).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let mut losses = Map::new();
    if old["setup"] == setup() {
        for other in old["losses"].as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default() {
            let near = |(name, new): &(&str, Vec<f64>)| {
                recorded(&old, &other, name).is_some_and(|old| apart(new, &old) < ELSEWHERE)
            };
            if ours.iter().all(near) {
                losses.insert(other.clone(), old["losses"][&other].clone());
            }
        }
    }
    let entry: Map<String, Value> = ours.iter().map(|(name, losses)| (name.to_string(), json!(losses))).collect();
    losses.insert(kind.to_string(), Value::Object(entry));
    losses.sort_keys();
    let golden = json!({"about": "Losses of ten steps, by hardware kind; see tests/engine/golden.rs", "setup": setup(), "losses": losses});
    std::fs::write(file(), serde_json::to_string_pretty(&golden).unwrap() + "\n").unwrap();
    println!("recorded the losses of \"{kind}\" in {}", file().display());
}
