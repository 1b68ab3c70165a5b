//! What takes a real GPU to run: loss curves of 200 steps in every precision, and a thousand steps without a leak.
//! Started by `scripts/gpu.sh`.

use std::sync::Arc;

use taper::arch::ModelConfig;
use taper::data::{Loader, TokenStream};
use taper::device::Device;
use taper::model::Gpt;
use taper::optim::Hyper;
use taper::train::config::Precision;
use taper::train::engine::{Engine, OnGpu, Setup, StepBatch};

use super::models;

const T: usize = 128;
const BATCH: usize = 16;

fn real() -> Option<Device> {
    match Device::parse("cuda") {
        Ok(device) => Some(device),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// Text that every checkout has, as bytes.
fn loader() -> Loader {
    let text =
        [include_str!("../../docs/config.md"), include_str!("../../README.md"), include_str!("../../docs/hub.md")];
    let tokens = text.concat().bytes().map(u32::from).collect();
    Loader::new(Arc::new(TokenStream::from_tokens(tokens, 256)), T, true, 1).unwrap()
}

fn model() -> Gpt {
    Gpt::new(ModelConfig {
        n_layer: 4,
        n_head: 4,
        n_kv_head: 4,
        n_embd: 256,
        mlp_dim: 1024,
        context_length: T,
        vocab_size: 256,
        ..models::gpt2()
    })
    .unwrap()
}

fn engine<'m>(device: Device, model: &'m Gpt, precision: Precision) -> OnGpu<'m> {
    let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
    let setup = Setup { seed_dropout: 1, recompute: false, lanes: 1 };
    let params = model.initialise(1).unwrap();
    OnGpu::new(device.gpu().unwrap().unwrap(), model, &params, hyper, setup, precision, false).unwrap()
}

fn train(engine: &mut OnGpu<'_>, loader: &Loader, steps: std::ops::Range<u64>) -> Vec<f64> {
    let mut losses = Vec::new();
    for step in steps {
        let lr = 1e-3 * ((step + 1) as f64 / 20.0).min(1.0);
        let first_sequence = step * BATCH as u64;
        let batch = StepBatch { loader: loader.clone(), first_sequence, micro_batch: BATCH, micro_batches: 1, step };
        engine.step(&batch, lr).unwrap();
        if step % 50 == 49 {
            losses.extend(engine.finished().unwrap().iter().map(|(loss, _)| *loss));
        }
    }
    losses
}

#[test]
#[ignore = "needs a GPU: scripts/gpu.sh"]
fn two_hundred_steps_in_every_precision() {
    let Some(device) = real() else { return };
    let (model, loader) = (model(), loader());
    let curve = |precision| train(&mut engine(device, &model, precision), &loader, 0..200);
    let tail = |losses: &[f64]| losses[180..].iter().sum::<f64>() / 20.0;
    let expected = curve(Precision::Fp32);
    println!("curve fp32: {:.4} at first, {:.4} at last", expected[0], tail(&expected));
    assert!(tail(&expected) < 0.6 * expected[0], "it does not learn");
    for precision in [Precision::Tf32, Precision::Bf16, Precision::Fp16] {
        let found = curve(precision);
        println!("curve {}: {:.4} at first, {:.4} at last", precision.name(), found[0], tail(&found));
        // Between seeds such a run's last losses differ by a few hundredths.
        assert!((tail(&found) - tail(&expected)).abs() < 0.05, "{}", precision.name());
        assert_eq!(found, curve(precision), "{}: two runs differ", precision.name());
    }
}

#[test]
#[ignore = "needs a GPU: scripts/gpu.sh"]
fn a_thousand_steps_leak_nothing() {
    let Some(device) = real() else { return };
    let gpu = device.gpu().unwrap().unwrap();
    let (model, loader) = (model(), loader());
    let mut engine = engine(device, &model, Precision::Bf16);
    train(&mut engine, &loader, 0..100);
    let (live, free) = (gpu.live_bytes(), gpu.driver().free_bytes().unwrap());
    train(&mut engine, &loader, 100..1100);
    let lost = free.saturating_sub(gpu.driver().free_bytes().unwrap());
    println!("leak: {} bytes live more, {lost} bytes of the GPU gone after 1,000 steps", gpu.live_bytes() - live);
    // The lists of the embedding's backward vary in length: a few sizes may still have been new.
    assert!(gpu.live_bytes() == live && lost < 8 << 20);
}
