//! Decoding on a GPU, many sequences side by side: the CPU's logits, and the same bits whatever stands next to a sequence.
//!
//! Recording is a state of the whole device, so these tests take a device of their own where it is emulated.

use taper::arch::ModelConfig;
use taper::decode::{Decode, Feed, OnGpu, Tensors};
use taper::device::{DType, Device};
use taper::model::Gpt;
use taper::ops::candidates;
use taper::random::{Purpose, uniform};
use taper::sample::SamplerConfig;
use taper::tensor::Tensor;

use super::compare::{close, epsilon};
use super::{ROOM, emulated, library, models};

fn own_devices() -> Vec<(&'static str, Device)> {
    let emulated = library::library().map(|library| ("emulated", emulated::Emulated::device(library, ROOM)));
    emulated.into_iter().chain(Device::parse("cuda").ok().map(|device| ("real", device))).collect()
}

fn engine(config: &ModelConfig, device: Device, dtype: DType, slots: usize) -> OnGpu {
    let model = Gpt::new(config.clone()).unwrap();
    let params = model.initialise(3).unwrap().to_device(device, dtype).unwrap();
    OnGpu::new(model, params, slots, config.context_length).unwrap()
}

fn token(sequence: usize, position: usize) -> u32 {
    (uniform(9, Purpose::Test, sequence as u64, position as u64) * 101.0) as u32
}

#[test]
fn sequences_side_by_side_have_the_logits_of_the_cpu_and_the_bits_of_being_alone() {
    for config in [models::gpt2(), models::llama()] {
        let v = config.vocab_size;
        for (place, device) in own_devices() {
            for dtype in [DType::F32, DType::BF16] {
                let what = format!("{place} {dtype:?}");
                let model = Gpt::new(config.clone()).unwrap();
                let params = model.initialise(3).unwrap();
                let mut cpu = Tensors::new(model, params, 3, 40);
                let (mut alone, mut beside) = (engine(&config, device, dtype, 3), engine(&config, device, dtype, 3));
                let (mut expected, mut one, mut found) = (Vec::new(), Vec::new(), Vec::new());
                // Slot 1 is fed a prompt and then single tokens; slot 0 joins later, slot 2 comes and goes.
                let prompt: Vec<u32> = (0..5).map(|i| token(1, i)).collect();
                for step in 0..14 {
                    let tokens = if step == 0 { prompt.clone() } else { vec![token(1, 4 + step)] };
                    let mine = Feed { slot: 1, tokens: &tokens };
                    cpu.feed(&[mine], &mut expected).unwrap();
                    alone.feed(&[mine], &mut one).unwrap();
                    let other = [token(0, step), token(0, step + 50)];
                    let mut feeds = vec![mine];
                    match step {
                        4 => feeds.insert(0, Feed { slot: 0, tokens: &other }),
                        5.. => feeds.insert(0, Feed { slot: 0, tokens: &other[..1] }),
                        _ => {}
                    }
                    if step % 3 == 1 {
                        beside.truncate(2, 0);
                        feeds.push(Feed { slot: 2, tokens: &other });
                    }
                    beside.feed(&feeds, &mut found).unwrap();
                    let at = feeds.iter().position(|feed| feed.slot == 1).unwrap();
                    let row = &found[at * v..][..v];
                    close(&format!("{what}: step {step}"), row, &expected, 8.0 * epsilon(dtype).max(4e-6));
                    let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(row), bits(&one), "{what}: step {step}, next to others");
                }
                // Taken back and said again: the same bits.
                let last = Feed { slot: 1, tokens: &[token(1, 17)] };
                beside.truncate(1, beside.len(1) - 1);
                beside.feed(&[last], &mut found).unwrap();
                assert_eq!(found, one, "{what}: after taking a token back");
            }
        }
    }
}

#[test]
fn candidates_on_a_gpu_are_the_rows() {
    let config = ModelConfig { vocab_size: 3001, ..models::gpt2() };
    for (place, device) in own_devices() {
        let mut engine = engine(&config, device, DType::BF16, 3);
        let prompts = [[1, 2, 3], [7, 8, 9]];
        let mut rows = Vec::new();
        let feeds = |tokens: &'static [[u32; 1]; 2]| {
            [Feed { slot: 2, tokens: &tokens[0] }, Feed { slot: 0, tokens: &tokens[1] }]
        };
        engine
            .feed(&[Feed { slot: 2, tokens: &prompts[0] }, Feed { slot: 0, tokens: &prompts[1] }], &mut rows)
            .unwrap();
        let rule = SamplerConfig { temperature: 0.8, top_k: Some(40), ..Default::default() };
        for tokens in [&[[4], [5]], &[[6], [7]], &[[8], [9]]] {
            let found = engine.selecting().unwrap().feed_candidates(&feeds(tokens), 3000, &[0.8, 0.0]).unwrap();
            for (index, found) in found.iter().enumerate() {
                let row = engine.logits_of_row(index);
                let inverse = if index == 0 { 1.0 / 0.8 } else { 1.0 };
                let expected = &candidates::cpu::candidates(&row, 3001, 3000, &[inverse])[0];
                assert_eq!((found.max, &found.list, found.whole), (expected.max, &expected.list, true), "{place}");
                assert!((found.sum / expected.sum - 1.0).abs() < 1e-9, "{place}");
                assert!((found.tempered / expected.tempered - 1.0).abs() < 1e-9, "{place}");
                let chosen = rule.choose(&row[..3000], &[], 5, 6).unwrap();
                if index == 0 {
                    assert_eq!(rule.choose_among(found, 5, 6).unwrap().token, chosen.token, "{place}");
                }
            }
        }
        // Awkward rows, straight to the kernel: many equal, NaN, infinities, fewer than there are strips.
        let gpu = |values: &[f32], columns: usize| {
            let rows = values.len() / columns;
            let on = |tensor: Tensor| tensor.to_device(device).unwrap();
            let logits = on(Tensor::from_f32(values, &[rows, columns]).unwrap());
            candidates::candidates(&logits, columns, &on(Tensor::from_f32(&vec![1.0; rows], &[rows]).unwrap())).unwrap()
        };
        let cpu = |values: &[f32], columns: usize| {
            candidates::cpu::candidates(values, columns, columns, &vec![1.0; values.len() / columns])
        };
        let mut wild: Vec<f32> = (0..4000).map(|i| ((i * 37) % 1009) as f32 / 100.0 - 5.0).collect();
        wild[1500] = f32::NEG_INFINITY;
        wild[2700] = f32::NAN;
        for (values, columns) in [(vec![1.5; 3000], 1500), (wild, 1000), (vec![-0.0, 0.0, 3.0, -7.0], 2)] {
            for (found, expected) in gpu(&values, columns).iter().zip(cpu(&values, columns)) {
                assert_eq!(found.max.to_bits() << 1, expected.max.to_bits() << 1, "{place}");
                assert_eq!(found.whole, expected.whole, "{place}");
                if !found.max.is_nan() {
                    assert_eq!(found.list, expected.list, "{place}");
                    assert!((found.sum / expected.sum - 1.0).abs() < 1e-9, "{place}");
                }
            }
        }
    }
}

trait Rows {
    fn logits_of_row(&mut self, index: usize) -> Vec<f32>;
}

impl Rows for OnGpu {
    fn logits_of_row(&mut self, index: usize) -> Vec<f32> {
        self.selecting().unwrap().logits_of(index).unwrap()
    }
}
