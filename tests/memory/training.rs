//! The memory model (`ModelConfig::training_bytes`, which chooses `micro_batch = "auto"`) against the truth: what the
//! buffer pool has taken from the system after a step.
//!
//! A prediction that is too low ends in a killed process, one that is too high wastes memory: it may be 5% below the
//! truth and 10% above.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use super::{alone, models};
use taper::arch::config::{Mlp, ModelConfig, NormPosition};
use taper::decode::cpu::{Options, Packed};
use taper::decode::{CacheFormat, Cpu, Decode, Feed, WeightFormat};
use taper::device::pool::{held_bytes, live_bytes, peak_bytes, release, reset_peak};
use taper::model::Gpt;
use taper::model::gpt::Pass;
use taper::nn::Dropout;
use taper::optim::{Hyper, Optimizer, rule};
use taper::tape::{Gradients, Tape};
use taper::tensor::{DType, Tensor};

use taper::sample::SamplerConfig;

/// The system's allocator, which counts how often the thread asks.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Generating a token, and choosing it, takes no memory from the allocator. One thread, because only its own are counted.
#[test]
fn a_token_allocates_nothing() {
    let _turn = alone();
    for config in [gpt2(), llama()] {
        let model = Gpt::new(config.clone()).unwrap();
        let params = model.initialise(1).unwrap();
        for (format, cache) in [
            (WeightFormat::Fp32, CacheFormat::Fp32),
            (WeightFormat::Bf16, CacheFormat::Bf16),
            (WeightFormat::Fp16, CacheFormat::Fp16),
            (WeightFormat::Q8_0, CacheFormat::Int8),
            (WeightFormat::Q4_0, CacheFormat::Int8),
        ] {
            let packed = Packed::new(&config, &params, format).unwrap();
            let mut engine = Cpu::new(&packed, Options { cache, threads: 1, ..Options::new(2, 60) });
            let sampler = SamplerConfig { top_p: Some(0.9), repetition_penalty: 1.1, ..SamplerConfig::default() };
            let (mut logits, mut ids) = (Vec::new(), [[1u32], [2]]);
            let mut token = |engine: &mut Cpu, position: u64| {
                let feeds = [Feed { slot: 0, tokens: &ids[0] }, Feed { slot: 1, tokens: &ids[1] }];
                engine.feed(&feeds, &mut logits).unwrap();
                for (id, logits) in ids.iter_mut().zip(logits.chunks(config.vocab_size)) {
                    id[0] = sampler.choose(logits, &[3, 1, 2], 0, position).unwrap().token;
                }
            };
            token(&mut engine, 0);
            let before = ASKED.get();
            (1..50).for_each(|position| token(&mut engine, position));
            assert_eq!(ASKED.get() - before, 0, "{format:?}, {cache:?}");
        }
    }
}

fn gpt2() -> ModelConfig {
    ModelConfig::gpt2(4, 4, 128, 128, 500)
}

fn llama() -> ModelConfig {
    ModelConfig { mlp_dim: 384, ..models::llama(&gpt2()) }
}

/// One step, parameters and optimizer included.
struct Measured {
    /// Bytes in live buffers at the peak.
    peak: usize,
    /// Bytes that the pool has from the system afterwards: more than the peak, since a buffer of one size cannot serve
    /// another.
    held: usize,
    predicted: u64,
}

fn measure(config: &ModelConfig, micro_batch: usize, recompute: bool, dtype: DType) -> Measured {
    release();
    let before = live_bytes();
    let model = Gpt::new(config.clone()).unwrap();
    let mut params = model.initialise(1).unwrap().with_compute(dtype).unwrap();
    let mut grads = Gradients::zeros_like(&params).unwrap();
    let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
    let mut optimizer = Optimizer::new(hyper, &params).unwrap();
    reset_peak();
    let t = config.context_length;
    let ids: Vec<u32> = (0..micro_batch * t).map(|i| (i * 31 % config.vocab_size) as u32).collect();
    let tokens = Tensor::from_u32(&ids, &[micro_batch, t]).unwrap();
    let sequences = (0..micro_batch as u32).collect();
    let dropout =
        (config.dropout > 0.0).then_some(Dropout { seed: 1, step: 0, probability: config.dropout, sequences });
    let pass = Pass { dropout, recompute, ..Pass::default() };
    let mut tape = Tape::training(&params, &mut grads);
    let loss = model.loss(&mut tape, &tokens, &ids, 1.0 / ids.len() as f32, &pass).unwrap();
    tape.backward(&loss.root, Tensor::from_f32(&[1.0], &[1]).unwrap()).unwrap();
    let sum = loss.sum().unwrap();
    optimizer.step(&mut params, &grads, sum, 1e-3);
    let (parameters, state) = (params.layout().parameters(), rule::state_bytes(&hyper.optimizer));
    let predicted = config.training_bytes(parameters, state, micro_batch, recompute, dtype);
    Measured { peak: peak_bytes() - before, held: held_bytes() - before, predicted }
}

#[test]
fn predictions_are_near_what_the_pool_holds() {
    let _turn = alone();
    let cases: Vec<(&str, ModelConfig, usize, bool)> = vec![
        ("gpt2", gpt2(), 8, false),
        ("gpt2, recompute", gpt2(), 8, true),
        ("gpt2, dropout", ModelConfig { dropout: 0.1, ..gpt2() }, 8, false),
        ("gpt2, dropout, recompute", ModelConfig { dropout: 0.1, ..gpt2() }, 8, true),
        ("post-norm", ModelConfig { norm_position: NormPosition::Post, mlp: Mlp::Relu2, ..gpt2() }, 8, false),
        ("llama", llama(), 8, false),
        ("llama, recompute", llama(), 8, true),
        (
            "large vocabulary",
            ModelConfig { vocab_size: 20_000, n_layer: 1, n_embd: 32, head_dim: 8, mlp_dim: 128, ..gpt2() },
            4,
            false,
        ),
        ("large vocabulary, one sequence", ModelConfig { vocab_size: 20_000, ..llama() }, 1, true),
        ("long context", ModelConfig { context_length: 2048, n_layer: 2, ..gpt2() }, 1, false),
        ("long context, recompute", ModelConfig { context_length: 2048, n_layer: 8, ..llama() }, 1, true),
        ("wide heads", ModelConfig { head_dim: 256, mlp_dim: 128, ..gpt2() }, 4, false),
        ("one layer, wide mlp", ModelConfig { n_layer: 1, mlp_dim: 4096, ..llama() }, 4, false),
        ("shallow and narrow", ModelConfig { n_layer: 1, n_embd: 16, head_dim: 4, mlp_dim: 64, ..gpt2() }, 64, false),
    ];
    let mut wrong = Vec::new();
    let all = cases.iter().flat_map(|case| [(case, DType::F32), (case, DType::BF16)]);
    for ((name, config, micro_batch, recompute), dtype) in all {
        let Measured { peak, held, predicted } = measure(config, *micro_batch, *recompute, dtype);
        let ratio = |bytes: usize| predicted as f64 / bytes as f64;
        let line = format!(
            "{name} in {dtype:?}: predicted {predicted}, {:.3} of what is held, {:.3} of the peak",
            ratio(held),
            ratio(peak)
        );
        println!("{line}");
        if !(0.95..=1.1).contains(&ratio(held)) || ratio(peak) < 1.0 {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_step_gives_back_all_it_took() {
    let _turn = alone();
    let before = live_bytes();
    for dtype in [DType::F32, DType::BF16] {
        measure(&gpt2(), 2, true, dtype);
    }
    assert_eq!(live_bytes(), before);
}
