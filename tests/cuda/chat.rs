//! Adapters trained on packed conversations: a GPU's step is the CPU engine's, and leaves the base alone.

use std::sync::Arc;

use taper::arch::ModelConfig;
use taper::arch::lora::LoraConfig;
use taper::checkpoint::adapter::family;
use taper::checkpoint::state::ArenaData;
use taper::data::{Conversations, Loader, Packed, Sequences};
use taper::model::Gpt;
use taper::optim::Hyper;
use taper::random::{Purpose, uniform};
use taper::tape::Params;
use taper::train::config::Precision;
use taper::train::engine::{Engine, Native, OnGpu, Setup, StepBatch};

use super::compare::close;
use super::{devices, models};

const T: usize = 40;

/// Conversations of 5 to 30 tokens, whose last half is learned.
fn loader(vocabulary: usize) -> Loader {
    let mut all = Conversations::default();
    for i in 0..60u64 {
        let len = 5 + i * 7 % 26;
        let token = |j: u64| (uniform(3, Purpose::Test, i, j) * vocabulary as f64) as u32;
        all.tokens.extend((0..len).map(token));
        all.learn.extend((0..len).map(|j| u8::from(j >= len / 2)));
        all.ends.push(all.tokens.len() as u64);
    }
    let packed = Packed::new(Arc::new(all), T, Some(1)).unwrap();
    Loader::new(Sequences::Packed(Arc::new(packed)), T, true, 7).unwrap()
}

fn batch(loader: &Loader, step: u64) -> StepBatch {
    StepBatch { loader: loader.clone(), first_sequence: 4 * step, micro_batch: 2, micro_batches: 2, step }
}

fn adapted(config: ModelConfig) -> (Gpt, Params) {
    let lora = LoraConfig { rank: Some(4), dropout: 0.1, ..LoraConfig::default() };
    let lora = lora.resolve(family(&config).unwrap()).unwrap();
    let plain = Gpt::new(config.clone()).unwrap().initialise(2).unwrap();
    let model = Gpt::with_adapters(config, lora).unwrap();
    let flat = plain.flat().f32();
    let values = plain.layout().infos().iter().map(|info| (info.name.as_str(), &flat[info.range()]));
    let params = model.with_base(values, 1).unwrap();
    (model, params)
}

#[test]
fn adapters_on_conversations_are_those_of_the_cpu_engine() {
    let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
    let setup = Setup { seed_dropout: 5, recompute: false, lanes: 2 };
    for (name, config) in [("gpt2", models::gpt2()), ("llama", models::llama())] {
        let (model, params) = adapted(config.clone());
        let loader = loader(config.vocab_size);
        let (frozen, trained) = (params.layout().frozen(), params.layout().trained());
        let base = params.flat().f32()[..frozen].to_vec();
        let mut cpu = Native::new(&model, adapted(config.clone()).1, hyper, setup).unwrap();
        let mut expected = Vec::new();
        for step in 0..4 {
            cpu.step(&batch(&loader, step), 3e-3).unwrap();
            expected.extend(cpu.finished().unwrap());
        }
        for (place, device) in devices() {
            let gpu = device.gpu().unwrap().unwrap();
            for (precision, tolerance) in [(Precision::Fp32, 2e-5), (Precision::Bf16, 0.02)] {
                let what = format!("{name}, {place}, {}", precision.name());
                let mut engine = OnGpu::new(gpu, &model, &params, hyper, setup, precision, false).unwrap();
                for step in 0..4 {
                    engine.step(&batch(&loader, step), 3e-3).unwrap();
                }
                let found = engine.finished().unwrap();
                for (step, ((loss, outcome), (expected, wanted))) in found.iter().zip(&expected).enumerate() {
                    assert!((loss - expected).abs() < tolerance * expected, "{what}: step {step}, {loss}, {expected}");
                    assert_eq!(outcome.class, wanted.class, "{what}: step {step}");
                }
                let all = engine.params().flat().to_vec_f32().unwrap();
                assert_eq!(all[..frozen], base, "{what}: the base has changed");
                let moments = engine.state().unwrap();
                assert!(moments.slots.iter().all(|(_, values)| values.len() == trained));
                if precision == Precision::Fp32 {
                    let (ours, theirs) = (moments.slot("m").unwrap(), cpu.state().unwrap());
                    close(&format!("{what}: first moments"), ours, theirs.slot("m").unwrap(), 2e-2);
                }
                // What a checkpoint keeps, put back.
                let arena = ArenaData { weights: all[frozen..].to_vec(), slots: moments.slots };
                let mut again = OnGpu::new(gpu, &model, &params, hyper, setup, precision, false).unwrap();
                again.restore(&arena, moments.updates, None).unwrap();
                let next = |engine: &mut OnGpu<'_>| {
                    engine.step(&batch(&loader, 4), 3e-3).unwrap();
                    (engine.finished().unwrap(), engine.params().flat().to_vec_f32().unwrap())
                };
                assert_eq!(next(&mut engine), next(&mut again), "{what}: continuing");
            }
        }
    }
}
