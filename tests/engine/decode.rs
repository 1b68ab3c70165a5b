//! Decoding with the key-value cache gives the logits of the whole sequence.

use super::common::{Batch, distance, engine, random_values, small, wide};
use taper::arch::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use taper::device::Device;
use taper::nn::Cache;
use taper::tensor::{DType, Tensor};

/// Every kind of position, with the other options spread over the cases.
fn shapes() -> Vec<ModelConfig> {
    let long = ModelConfig { context_length: 140, ..small() };
    let llama = ModelConfig { norm: Norm::Rmsnorm, mlp: Mlp::Swiglu, position: Position::Rope, ..long.clone() };
    vec![
        ModelConfig { position: Position::None, n_kv_head: 1, mlp: Mlp::Relu2, ..long.clone() },
        ModelConfig { position: Position::None, norm_position: NormPosition::Post, ..long.clone() },
        ModelConfig { n_kv_head: 2, head_dim: 6, norm_position: NormPosition::Post, ..long.clone() },
        ModelConfig { qkv_bias: false, bias: false, tie_embeddings: false, mlp: Mlp::GeluErf, ..long.clone() },
        ModelConfig { n_kv_head: 2, head_dim: 6, tie_embeddings: false, ..llama.clone() },
        ModelConfig { norm_position: NormPosition::Post, bias: false, ..llama },
        long,
    ]
}

#[test]
fn cached_decoding_equals_whole_sequences() {
    for (i, config) in shapes().into_iter().enumerate() {
        let (model, params) = engine(&config, &random_values(&config, i as u64));
        let (t, v) = (config.context_length, config.vocab_size);
        let batch = Batch::random(i as u64, 2, t, v);
        let whole = model.logits(&params, &batch.tensor()).unwrap();
        let most = wide(whole.f32()).fold(0.0, |most: f64, logit| most.max(logit.abs()));
        // All at once; a long start and then token by token; pieces of several sizes, beyond a block of keys (128).
        let single: Vec<usize> = [vec![100], vec![1; 40]].concat();
        for pieces in [vec![t], single, vec![1, 2, 61, 1, 70, 5]] {
            assert_eq!(pieces.iter().sum::<usize>(), t);
            let mut cache = Cache::new(&config, 2, t, Device::Cpu, DType::F32).unwrap();
            for piece in pieces {
                let past = cache.len();
                let rows = (0..2).flat_map(|row| &batch.tokens[row * t + past..][..piece]).copied();
                let tokens = Tensor::from_u32(&rows.collect::<Vec<u32>>(), &[2, piece]).unwrap();
                let logits = model.decode(&params, &tokens, &mut cache).unwrap();
                assert_eq!((logits.shape(), cache.len()), (&[2, v][..], past + piece));
                let expected = (0..2).flat_map(|row| &whole.f32()[(row * t + past + piece - 1) * v..][..v]);
                let off = distance(wide(logits.f32()), expected.map(|&logit| f64::from(logit)));
                // Products of other shapes add up in another order: float32's rounding over two layers.
                assert!(off < 3e-6 * most, "{config:?}: {piece} tokens after {past} are off by {off:e} of {most}");
            }
            let one_more = Tensor::from_u32(&[1, 1], &[2, 1]).unwrap();
            let error = model.decode(&params, &one_more, &mut cache).unwrap_err().to_string();
            assert!(error.contains("141 tokens"), "{error}");
        }
    }
}
