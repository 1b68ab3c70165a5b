//! Generation on a GPU: logits and greedy tokens of the CPU, with and without the cache.

use taper::device::DType;
use taper::model::Gpt;
use taper::nn::Cache;
use taper::tensor::Tensor;

use super::compare::{close, epsilon};
use super::{devices, models};

fn greedy(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("a vocabulary").0 as u32
}

/// Prefill in one pass, then single tokens; the last steps' logits, and all tokens.
#[test]
fn cached_decoding_is_the_cpus() {
    for config in [models::gpt2(), models::llama()] {
        let model = Gpt::new(config).unwrap();
        let host = model.initialise(3).unwrap();
        let prompt: Vec<u32> = (0..7).map(|i| i * 13 % 101).collect();
        let expected = {
            let mut tokens = prompt.clone();
            while tokens.len() < 30 {
                let logits = model.logits(&host, &Tensor::from_u32(&tokens, &[1, tokens.len()]).unwrap()).unwrap();
                let last = logits.to_vec_f32().unwrap();
                tokens.push(greedy(&last[last.len() - model.config().vocab_size..]));
            }
            tokens
        };
        for (place, device) in devices() {
            for dtype in [DType::F32, DType::BF16] {
                let params = host.to_device(*device, dtype).unwrap();
                let mut cache = Cache::new(model.config(), 1, 40, *device, dtype).unwrap();
                let mut new = prompt.clone();
                for end in prompt.len()..30 {
                    let tokens = Tensor::from_u32(&new, &[1, new.len()]).unwrap();
                    let logits = model.decode(&params, &tokens, &mut cache).unwrap().to_vec_f32().unwrap();
                    if dtype == DType::F32 {
                        assert_eq!(greedy(&logits), expected[end], "{place}: token {end}");
                    }
                    let so_far = Tensor::from_u32(&expected[..end], &[1, end]).unwrap();
                    let whole = model.logits(&host, &so_far).unwrap().to_vec_f32().unwrap();
                    let wanted = &whole[whole.len() - model.config().vocab_size..];
                    close(
                        &format!("{place} {dtype:?}: logits after {end}"),
                        &logits,
                        wanted,
                        8.0 * epsilon(dtype).max(4e-6),
                    );
                    new = vec![expected[end]];
                }
            }
        }
    }
}

/// A second piece of several tokens after the first goes through the cache as well.
#[test]
fn a_prompt_in_pieces_gives_the_same_logits() {
    let model = Gpt::new(models::llama()).unwrap();
    let host = model.initialise(3).unwrap();
    let tokens: Vec<u32> = (0..2 * 20).map(|i| i * 7 % 101).collect();
    let all = Tensor::from_u32(&tokens, &[2, 20]).unwrap();
    let whole = model.logits(&host, &all).unwrap().to_vec_f32().unwrap();
    let v = model.config().vocab_size;
    let piece = |range: std::ops::Range<usize>| {
        let rows: Vec<u32> = (0..2).flat_map(|b| tokens[b * 20..][range.clone()].to_vec()).collect();
        Tensor::from_u32(&rows, &[2, range.len()]).unwrap()
    };
    for (place, device) in devices() {
        let params = host.to_device(*device, DType::F32).unwrap();
        let mut cache = Cache::new(model.config(), 2, 25, *device, DType::F32).unwrap();
        model.decode(&params, &piece(0..8), &mut cache).unwrap();
        let logits = model.decode(&params, &piece(8..20), &mut cache).unwrap().to_vec_f32().unwrap();
        for b in 0..2 {
            let wanted = &whole[(b * 20 + 19) * v..][..v];
            close(&format!("{place}: sequence {b}"), &logits[b * v..][..v], wanted, 1e-4);
        }
    }
}

/// What benchmarks are scored by: logits after some tokens only, in fp32 whatever the compute copy.
#[test]
fn logits_after_some_tokens_are_the_cpus() {
    let model = Gpt::new(models::gpt2()).unwrap();
    let host = model.initialise(3).unwrap();
    let tokens: Vec<u32> = (0..2 * 40).map(|i| i * 7 % 101).collect();
    let tokens = Tensor::from_u32(&tokens, &[2, 40]).unwrap();
    let whole = model.logits(&host, &tokens).unwrap().to_vec_f32().unwrap();
    let v = model.config().vocab_size;
    // More than a block of rows, out of order.
    let rows: Vec<usize> = (0..80).rev().filter(|row| row % 7 != 0).collect();
    let wanted: Vec<f32> = rows.iter().flat_map(|row| whole[row * v..][..v].to_vec()).collect();
    let on_cpu = std::iter::once(("cpu".to_string(), taper::device::Device::Cpu));
    for (place, device) in on_cpu.chain(devices().iter().cloned()) {
        for dtype in [DType::F32, DType::BF16] {
            if (device, dtype) == (taper::device::Device::Cpu, DType::BF16) {
                continue;
            }
            let params = host.to_device(device, dtype).unwrap();
            let mut found = Vec::new();
            model.logits_at(&params, &tokens, &rows, &mut |logits| found.extend_from_slice(logits)).unwrap();
            close(&format!("{place} {dtype:?}"), &found, &wanted, 8.0 * epsilon(dtype).max(4e-6));
        }
    }
}
