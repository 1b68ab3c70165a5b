//! The whole training step on a GPU: losses, weights and decisions of the CPU engine, the same bits every time, no
//! allocation once it runs.

use std::sync::Arc;

use taper::arch::ModelConfig;
use taper::checkpoint::state::ArenaData;
use taper::data::{Loader, TokenStream};
use taper::device::Device;
use taper::model::Gpt;
use taper::optim::{Class, Hyper, Outcome};
use taper::random::{Purpose, uniform};
use taper::tape::Params;
use taper::train::config::Precision;
use taper::train::engine::{Engine, Native, OnGpu, Setup, StepBatch};

use super::compare::close;
use super::{devices, models};

const T: usize = 40;
const MICRO_BATCH: usize = 2;
const MICRO_BATCHES: usize = 4;
const STEPS: u64 = 6;

fn loader(vocabulary: usize) -> Loader {
    let token = |i: u64| (uniform(3, Purpose::Test, i, 0) * uniform(3, Purpose::Test, i, 1) * vocabulary as f64) as u32;
    let stream = TokenStream::from_tokens((0..8000).map(token).collect(), vocabulary);
    Loader::new(Arc::new(stream), T, true, 7).unwrap()
}

fn batch(loader: &Loader, step: u64) -> StepBatch {
    StepBatch {
        loader: loader.clone(),
        first_sequence: step * (MICRO_BATCH * MICRO_BATCHES) as u64,
        micro_batch: MICRO_BATCH,
        micro_batches: MICRO_BATCHES,
        step,
    }
}

fn hyper() -> Hyper {
    Hyper { clip_norm: Some(1.0), ..Hyper::default() }
}

fn setup(recompute: bool) -> Setup {
    Setup { seed_dropout: 5, recompute, lanes: 2 }
}

/// Steps `from..to`; losses and outcomes, asked for at the end.
fn train(engine: &mut dyn Engine, loader: &Loader, steps: std::ops::Range<u64>) -> Vec<(f64, Outcome)> {
    let mut done = Vec::new();
    for step in steps.clone() {
        engine.step(&batch(loader, step), 3e-3).unwrap();
        if step + 1 - steps.start >= engine.max_in_flight() {
            done.extend(engine.finished().unwrap());
        }
    }
    done.extend(engine.finished().unwrap());
    assert_eq!(done.len() as u64, steps.end - steps.start);
    done
}

fn weights(engine: &dyn Engine) -> Vec<f32> {
    engine.params().flat().to_vec_f32().unwrap()
}

fn on_gpu<'m>(device: Device, model: &'m Gpt, params: &Params, precision: Precision, stop: bool) -> OnGpu<'m> {
    let gpu = device.gpu().unwrap().unwrap();
    OnGpu::new(gpu, model, params, hyper(), setup(false), precision, stop).unwrap()
}

fn on_cpu<'m>(model: &'m Gpt, recompute: bool) -> Native<'m> {
    Native::new(model, model.initialise(1).unwrap(), hyper(), setup(recompute)).unwrap()
}

fn shapes() -> Vec<(&'static str, ModelConfig)> {
    vec![("gpt2", models::gpt2()), ("llama", models::llama()), ("with dropout", models::dropout())]
}

#[test]
fn fp32_is_the_cpu_engine() {
    for (name, config) in shapes() {
        let model = Gpt::new(config).unwrap();
        let loader = loader(model.config().vocab_size);
        let mut cpu = on_cpu(&model, false);
        let expected = train(&mut cpu, &loader, 0..STEPS);
        for (place, device) in devices() {
            let what = format!("{name}, {place}");
            let mut gpu = on_gpu(*device, &model, &model.initialise(1).unwrap(), Precision::Fp32, false);
            let found = train(&mut gpu, &loader, 0..STEPS);
            for (step, ((loss, outcome), (expected, wanted))) in found.iter().zip(&expected).enumerate() {
                let off = (loss - expected).abs();
                assert!(off < 2e-5 * expected, "{what}: step {step}, loss {loss}, expected {expected}");
                assert_eq!(outcome.class, wanted.class, "{what}: step {step}");
                assert!((outcome.norm - wanted.norm).abs() < 1e-3 * wanted.norm, "{what}: step {step}, norms");
                assert_eq!(outcome.norm_clipped == outcome.norm, wanted.norm_clipped == wanted.norm, "{what}: clipped");
            }
            // AdamW turns a gradient of rounding noise into a full step: a few elements may differ by their steps' size.
            let (found, wanted) = (weights(&gpu), weights(&cpu));
            let far = found.iter().zip(&wanted).filter(|(a, b)| (*a - *b).abs() > 1e-4).count();
            assert!(far * 1000 < found.len(), "{what}: {far} of {} weights are far off", found.len());
            let (ours, theirs) = (gpu.state().unwrap(), cpu.state().unwrap());
            assert_eq!(ours.updates, theirs.updates);
            close(&format!("{what}: first moments"), ours.slot("m").unwrap(), theirs.slot("m").unwrap(), 2e-2);
        }
    }
}

#[test]
fn narrow_precisions_train_alike_and_repeat_themselves() {
    for (name, config) in shapes() {
        let model = Gpt::new(config).unwrap();
        let loader = loader(model.config().vocab_size);
        let expected = train(&mut on_cpu(&model, false), &loader, 0..STEPS);
        for (place, device) in devices() {
            for precision in [Precision::Bf16, Precision::Fp16] {
                let what = format!("{name}, {place}, {}", precision.name());
                let run = || {
                    let mut gpu = on_gpu(*device, &model, &model.initialise(1).unwrap(), precision, false);
                    let found = train(&mut gpu, &loader, 0..STEPS);
                    (found, weights(&gpu))
                };
                let (found, ours) = run();
                for (step, ((loss, outcome), (expected, _))) in found.iter().zip(&expected).enumerate() {
                    assert!((loss - expected).abs() < 0.02 * expected, "{what}: step {step}, {loss} for {expected}");
                    assert!(outcome.class.is_applied(), "{what}: step {step} is {:?}", outcome.class);
                }
                let (again, theirs) = run();
                assert_eq!(found, again, "{what}: two runs differ");
                assert!(ours.iter().zip(&theirs).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}: weights differ");
            }
        }
    }
}

#[test]
fn rows_beyond_the_vocabulary_change_no_loss_and_stay_zero() {
    for (name, config) in shapes() {
        let (vocabulary, rows) = (config.vocab_size, config.vocab_size.next_multiple_of(128));
        let plain = Gpt::new(config.clone()).unwrap();
        let padded = Gpt::with_rows(config, None, rows).unwrap();
        let loader = loader(vocabulary);
        for (place, device) in devices() {
            for (precision, tolerance) in [(Precision::Fp32, 2e-5), (Precision::Bf16, 0.02)] {
                let what = format!("{name}, {place}, {}", precision.name());
                let run = |model: &Gpt| {
                    let mut gpu = on_gpu(*device, model, &model.initialise(1).unwrap(), precision, false);
                    let found = train(&mut gpu, &loader, 0..4);
                    let state = gpu.state().unwrap();
                    (found, weights(&gpu), ["m", "v"].map(|slot| state.slot(slot).unwrap().to_vec()))
                };
                let ((expected, ..), (found, weights, moments)) = (run(&plain), run(&padded));
                for (step, ((loss, outcome), (expected, wanted))) in found.iter().zip(&expected).enumerate() {
                    assert!(
                        (loss - expected).abs() < tolerance * expected,
                        "{what}: step {step}, {loss}, not {expected}"
                    );
                    assert_eq!(outcome.class, wanted.class, "{what}: step {step}");
                }
                for info in padded.layout().infos().iter().filter(|info| info.spare_rows > 0) {
                    let spare = info.range().end..info.offset + info.padded_shape().iter().product::<usize>();
                    let zero = |buffer: &[f32]| buffer[spare.clone()].iter().all(|&x| x == 0.0);
                    assert!(zero(&weights) && moments.iter().all(|slot| zero(slot)), "{what}: {}", info.name);
                }
            }
        }
    }
}

#[test]
fn recomputation_changes_no_bit() {
    let model = Gpt::new(models::dropout()).unwrap();
    let loader = loader(model.config().vocab_size);
    for (place, device) in devices() {
        let gpu = device.gpu().unwrap().unwrap();
        let run = |recompute| {
            let params = model.initialise(1).unwrap();
            let setup = setup(recompute);
            let mut engine = OnGpu::new(gpu, &model, &params, hyper(), setup, Precision::Bf16, false).unwrap();
            (train(&mut engine, &loader, 0..3), weights(&engine))
        };
        assert!(run(false) == run(true), "{place}: recomputation changed the result");
    }
}

/// What a checkpoint holds is all there is.
#[test]
fn a_restored_engine_goes_on_with_the_same_bits() {
    let model = Gpt::new(models::llama()).unwrap();
    let loader = loader(model.config().vocab_size);
    for (place, device) in devices() {
        for precision in [Precision::Bf16, Precision::Fp16] {
            let start = model.initialise(1).unwrap();
            let mut unbroken = on_gpu(*device, &model, &start, precision, false);
            let expected = train(&mut unbroken, &loader, 0..STEPS);
            let mut first = on_gpu(*device, &model, &start, precision, false);
            train(&mut first, &loader, 0..2);
            let moments = first.state().unwrap();
            let arena = ArenaData { weights: weights(&first), slots: moments.slots };
            let other = model.initialise(2).unwrap();
            let mut second = on_gpu(*device, &model, &other, precision, false);
            second.restore(&arena, moments.updates, moments.scale).unwrap();
            let found = train(&mut second, &loader, 2..STEPS);
            assert_eq!(found[..], expected[2..], "{place}, {}", precision.name());
            assert!(weights(&second) == weights(&unbroken), "{place}, {}: weights", precision.name());
        }
    }
}

/// A NaN among the weights: the step is refused, its first bad parameter named, and nothing changes.
#[test]
fn what_is_not_finite_is_refused_and_named() {
    let model = Gpt::new(models::gpt2()).unwrap();
    let loader = loader(model.config().vocab_size);
    for (place, device) in devices() {
        for precision in [Precision::Fp32, Precision::Bf16] {
            // A gradient that is not finite, with a loss that is: an infinite second factor of a zero.
            let mut params = model.initialise(1).unwrap();
            let id = params.layout().find("h.1.mlp.down.weight").unwrap();
            let len = params.layout().info(id).len();
            params.set(id, &vec![f32::NAN; len]).unwrap();
            let mut gpu = on_gpu(*device, &model, &params, precision, false);
            let before = weights(&gpu);
            let found = train(&mut gpu, &loader, 0..2);
            assert!(found.iter().all(|(_, outcome)| outcome.class == Class::LossNonFinite), "{place}: {found:?}");
            let same = weights(&gpu).iter().zip(&before).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && gpu.state().unwrap().updates == 0, "{place}: a refused step changed something");

            let mut stopping = on_gpu(*device, &model, &params, precision, true);
            let classes: Vec<Class> = train(&mut stopping, &loader, 0..3).iter().map(|(_, o)| o.class).collect();
            assert_eq!(classes, [Class::LossNonFinite, Class::Stopped, Class::Stopped], "{place}");
        }
    }
}

/// fp16 begins with too large a scale on purpose: it backs off, then trains.
#[test]
fn the_loss_scale_backs_off() {
    let model = Gpt::new(models::gpt2()).unwrap();
    let loader = loader(model.config().vocab_size);
    for (place, device) in devices() {
        let params = model.initialise(1).unwrap();
        let mut gpu = on_gpu(*device, &model, &params, Precision::Fp16, false);
        let moments = gpu.state().unwrap();
        let arena = ArenaData { weights: weights(&gpu), slots: moments.slots };
        let huge = taper::optim::ScaleState { loss_scale: 16_777_216.0, good_steps: 0 };
        gpu.restore(&arena, 0, Some(huge)).unwrap();
        let found = train(&mut gpu, &loader, 0..12);
        let first = found.iter().position(|(_, outcome)| outcome.class.is_applied()).expect("it settles");
        assert!(first > 0, "{place}: the scale was not too large");
        assert!(found[..first].iter().all(|(_, outcome)| outcome.class == Class::Backoff), "{place}: {found:?}");
        assert!(found[first..].iter().all(|(_, outcome)| outcome.class.is_applied()), "{place}: {found:?}");
        let scale = gpu.state().unwrap().scale.unwrap();
        assert_eq!(scale.loss_scale, 16_777_216.0 / 2f32.powi(first as i32), "{place}");
        assert_eq!(scale.good_steps as usize, found.len() - first, "{place}");
    }
}

/// After the first steps every buffer comes from the pool.
#[test]
fn nothing_is_allocated_in_the_steady_state() {
    // A device of its own, because other tests allocate on theirs.
    let Some(library) = super::library::library() else { return };
    let device = super::emulated::Emulated::device(library, super::ROOM);
    let gpu = device.gpu().unwrap().unwrap();
    let model = Gpt::new(models::dropout()).unwrap();
    let loader = loader(model.config().vocab_size);
    let mut engine = on_gpu(device, &model, &model.initialise(1).unwrap(), Precision::Bf16, false);
    train(&mut engine, &loader, 0..2);
    let (allocations, live) = (gpu.allocations(), gpu.live_bytes());
    train(&mut engine, &loader, 2..6);
    assert_eq!(gpu.live_bytes(), live, "a buffer was kept");
    // What is left to allocate are the lists of the embedding's backward, whose lengths follow the data.
    assert!(
        gpu.allocations() - allocations <= 4,
        "{} allocations in the steady state",
        gpu.allocations() - allocations
    );
}

#[test]
fn a_full_gpu_says_what_to_do() {
    let Some(library) = super::library::library() else { return };
    let device = super::emulated::Emulated::device(library, 1 << 20);
    let model = Gpt::new(models::gpt2()).unwrap();
    let gpu = device.gpu().unwrap().unwrap();
    let params = model.initialise(1).unwrap();
    let made = OnGpu::new(gpu, &model, &params, hyper(), setup(false), Precision::Bf16, false);
    let failed = made.and_then(|mut engine| engine.step(&batch(&loader(model.config().vocab_size), 0), 1e-3));
    let message = failed.unwrap_err().to_string();
    for word in ["out of memory", "train.micro_batch", "train.recompute"] {
        assert!(message.contains(word), "{message}");
    }
}
