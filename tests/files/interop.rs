//! Folders by transformers' `save_pretrained` load, compute the same logits, and continue from 50 prompts with the same
//! tokens.
//!
//! The truth is `tests/fixtures`, made by `scripts/make_fixtures.py` (logits, in float64) and
//! `scripts/make_greedy_fixtures.py` (greedy continuations, in float32): nothing of ours took part in it.

use crate::fixtures::{ALL, Fixture, folder};
use serde_json::Value;
use taper::checkpoint::{Packing, WeightType, read_model_folder, write_model_folder_as};
use taper::decode::cpu::{Options, Packed};
use taper::decode::{Cpu, Decode, Feed, Tensors, WeightFormat};
use taper::model::Gpt;
use taper::sample::Cached;
use taper::tape::Params;
use taper::tensor::Tensor;

fn load(at: &std::path::Path) -> (Gpt, Params) {
    let found = read_model_folder(at).unwrap();
    let model = Gpt::new(found.config).unwrap();
    let params = model.with_values(found.params.iter().map(|(n, _, v)| (n.as_str(), v.as_slice()))).unwrap();
    (model, params)
}

fn ids(value: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|(i, a), (j, b)| a.total_cmp(b).then(j.cmp(i)));
    best.unwrap().0 as u32
}

/// The continuation by `logits_after`, which is given the whole history each time.
fn greedy(prompt: &[u32], count: usize, mut logits_after: impl FnMut(&[u32]) -> Vec<f32>) -> Vec<u32> {
    let mut history = prompt.to_vec();
    for _ in 0..count {
        history.push(argmax(&logits_after(&history)));
    }
    history.split_off(prompt.len())
}

/// Greedy continuations of all prompts at once, each in its slot.
fn greedy_beside(engine: &mut dyn Decode, prompts: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    let mut next: Vec<Vec<u32>> = prompts.to_vec();
    let mut found = vec![Vec::new(); prompts.len()];
    let mut logits = Vec::new();
    for _ in 0..count {
        let feeds: Vec<Feed<'_>> = next.iter().enumerate().map(|(slot, tokens)| Feed { slot, tokens }).collect();
        engine.feed(&feeds, &mut logits).unwrap();
        let chosen = logits.chunks(engine.config().vocab_size).map(argmax);
        next = chosen.map(|token| vec![token]).collect();
        found.iter_mut().zip(&next).for_each(|(found, token): (&mut Vec<u32>, _)| found.extend(token));
    }
    found
}

#[test]
fn logits_of_save_pretrained_folders_within_1e_4() {
    for name in ALL {
        let (f, (model, params)) = (Fixture::load(name), load(&folder(name)));
        let (v, whole) = (f.config.vocab_size, Tensor::from_u32(&f.tokens, &[f.b, f.t]).unwrap());
        let logits = model.logits(&params, &whole).unwrap();
        let off = logits.f32().iter().zip(&f.logits).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(off < 1e-4, "{name}: whole sequences are off by {off:e}");
        for row in 0..f.b {
            let tokens = &f.tokens[row * f.t..][..f.t];
            let mut cached = Cached::new(&model, &params, f.t);
            for length in 1..=f.t {
                let ours = cached.logits(&tokens[..length]).unwrap();
                let theirs = &f.logits[(row * f.t + length - 1) * v..][..v];
                let off = ours.iter().zip(theirs).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                assert!(off < 1e-4, "{name}: after {length} tokens the cache is off by {off:e}");
            }
        }
    }
}

#[test]
fn fifty_greedy_continuations_token_for_token() {
    for name in ALL {
        let (model, params) = load(&folder(name));
        let expected: Value =
            serde_json::from_slice(&std::fs::read(folder(name).join("greedy.json")).unwrap()).unwrap();
        let (prompts, continuations) = (ids(&expected["prompts"]), ids(&expected["continuations"]));
        assert_eq!((prompts.len(), continuations.len()), (50, 50), "{name}");
        // Wide enough that rounding chooses no token.
        assert!(expected["margin"].as_f64().unwrap() > 5e-4);
        // Both engines with a cache, all prompts side by side.
        let (again, params_again) = load(&folder(name));
        let packed = Packed::new(model.config(), &params, WeightFormat::Fp32).unwrap();
        let engines: [Box<dyn Decode>; 2] =
            [Box::new(Tensors::new(again, params_again, 50, 24)), Box::new(Cpu::new(&packed, Options::new(50, 24)))];
        for mut engine in engines {
            assert_eq!(greedy_beside(&mut *engine, &prompts, 20), continuations, "{name}: side by side");
        }
        for (prompt, expected) in prompts.iter().zip(&continuations) {
            assert_eq!(expected.len(), 20);
            let mut cached = Cached::new(&model, &params, expected.len());
            let with_cache = greedy(prompt, expected.len(), |history| cached.logits(history).unwrap());
            assert_eq!(&with_cache, expected, "{name}: after {prompt:?}, with the cache");
            let without = greedy(prompt, expected.len(), |history| {
                let tokens = Tensor::from_u32(history, &[1, history.len()]).unwrap();
                let logits = model.logits(&params, &tokens).unwrap();
                logits.f32()[(history.len() - 1) * model.config().vocab_size..].to_vec()
            });
            assert_eq!(&without, expected, "{name}: after {prompt:?}, without the cache");
        }
    }
}

/// Narrow folders have the logits of weights that are rounded first: the same numbers, another way.
#[test]
fn converted_folders_compute_with_rounded_weights() {
    for (weights, round) in [
        (WeightType::Bf16, (|x| half::bf16::from_f32(x).to_f32()) as fn(f32) -> f32),
        (WeightType::F16, |x| half::f16::from_f32(x).to_f32()),
    ] {
        for name in ALL {
            let found = read_model_folder(&folder(name)).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let packing = Packing { weights, shard_bytes: Some(4000) };
            let files = write_model_folder_as(dir.path(), &found.config, &found.params, found.eos, packing).unwrap();
            assert!(files.len() > 1, "{name}");
            let again = read_model_folder(dir.path()).unwrap();
            assert_eq!(again.config, found.config);
            for ((a, _, got), (b, _, old)) in again.params.iter().zip(&found.params) {
                let rounded: Vec<f32> = old.iter().map(|&x| round(x)).collect();
                assert!(a == b && *got == rounded, "{name}: {a}");
            }
        }
    }
}
