//! The memory model of a GPU against what the pool counts.

use std::sync::Arc;

use taper::arch::ModelConfig;
use taper::data::{Loader, TokenStream};
use taper::device::DType;
use taper::model::Gpt;
use taper::optim::{Hyper, rule};
use taper::train::config::Precision;
use taper::train::engine::{Engine, OnGpu, Setup, StepBatch};

use super::{ROOM, models};

#[test]
fn predictions_are_near_what_the_pool_holds() {
    let Some(library) = super::library::library() else { return };
    let wide = ModelConfig { context_length: 128, n_embd: 128, mlp_dim: 512, vocab_size: 300, ..models::gpt2() };
    let gated = ModelConfig { context_length: 128, mlp_dim: 192, vocab_size: 1000, ..models::llama() };
    let mut wrong = Vec::new();
    for (name, config, recompute, precision) in [
        ("gpt2", wide.clone(), false, Precision::Bf16),
        ("gpt2 in f32", ModelConfig { n_head: 8, n_kv_head: 8, head_dim: 16, ..wide.clone() }, false, Precision::Fp32),
        ("gpt2, deep, recompute", ModelConfig { n_layer: 5, ..wide }, true, Precision::Bf16),
        ("llama", gated, false, Precision::Fp16),
    ] {
        // A device of its own, so that only this run is counted.
        let device = super::emulated::Emulated::device(library, ROOM);
        let gpu = device.gpu().unwrap().unwrap();
        let model = Gpt::new(config).unwrap();
        let stream = TokenStream::from_tokens((0..20_000).map(|i| i * 31 % 97).collect(), model.config().vocab_size);
        let loader = Loader::new(Arc::new(stream), 128, false, 1).unwrap();
        let hyper = Hyper::default();
        let setup = Setup { seed_dropout: 1, recompute, lanes: 1 };
        let params = model.initialise(1).unwrap();
        let mut engine = OnGpu::new(gpu, &model, &params, hyper, setup, precision, false).unwrap();
        let micro_batch = 8;
        engine.step(&StepBatch { loader, first_sequence: 0, micro_batch, micro_batches: 1, step: 0 }, 1e-3).unwrap();
        engine.finished().unwrap();
        let parameters = model.layout().parameters();
        let dtype: DType = precision.dtype();
        let predicted = model.config().training_bytes_on_gpu(
            parameters,
            rule::state_bytes(&hyper.optimizer),
            micro_batch,
            recompute,
            dtype,
        );
        let ratio = |bytes: usize| predicted as f64 / bytes as f64;
        let (held, peak) = (ratio(gpu.held_bytes()), ratio(gpu.peak_bytes()));
        let line = format!("{name}: predicted {predicted}, {held:.3} of what is held, {peak:.3} of the peak");
        println!("{line}");
        if !(0.92..=1.15).contains(&held) || peak < 1.0 {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
