//! Every combination of the architecture options, against the reference engine in float64.
//!
//! 2304 small models: norm x norm_position x position x mlp x bias x qkv_bias x tie_embeddings x (multi-head, grouped,
//! one key-value head) x (heads of n_embd / n_head, wider heads). For each one the loss and the gradient of every
//! parameter. The ruler is the reference engine in float32, a plain composition of textbook formulas, and its distance from
//! float64. How far two computations of one model are apart is luck (one in a thousand has twice the other's error): in any
//! single model the engine may be four times as far as the ruler, and over all models it must not be worse.

use super::common::{Batch, distance, engine, largest, loss_and_grads, random_values, small, wide};
use rayon::prelude::*;
use std::collections::BTreeMap;
use taper::arch::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use taper::model::gpt::Pass;
use taper::reference::{Precision, Reference};
use taper::tape::ParamInfo;

const NORMS: [Norm; 2] = [Norm::Layernorm, Norm::Rmsnorm];
const NORM_POSITIONS: [NormPosition; 2] = [NormPosition::Pre, NormPosition::Post];
const POSITIONS: [Position; 3] = [Position::Learned, Position::Rope, Position::None];
const MLPS: [Mlp; 4] = [Mlp::Gelu, Mlp::GeluErf, Mlp::Swiglu, Mlp::Relu2];

/// All combinations.
fn product() -> Vec<ModelConfig> {
    let mut all = vec![small()];
    let mut vary = |choices: usize, set: &dyn Fn(&mut ModelConfig, usize)| {
        let of = |config: &ModelConfig| {
            (0..choices)
                .map(|choice| {
                    let mut config = config.clone();
                    set(&mut config, choice);
                    config
                })
                .collect::<Vec<_>>()
        };
        all = all.iter().flat_map(of).collect();
    };
    vary(2, &|config, i| config.norm = NORMS[i]);
    vary(2, &|config, i| config.norm_position = NORM_POSITIONS[i]);
    vary(3, &|config, i| config.position = POSITIONS[i]);
    vary(4, &|config, i| config.mlp = MLPS[i]);
    vary(2, &|config, i| config.bias = i == 1);
    vary(2, &|config, i| config.qkv_bias = i == 1);
    vary(2, &|config, i| config.tie_embeddings = i == 1);
    vary(3, &|config, i| config.n_kv_head = [4, 2, 1][i]);
    vary(2, &|config, i| config.head_dim = [4, 6][i]);
    all
}

/// Loss and gradients of the reference engine.
fn truth(
    config: &ModelConfig,
    values: &super::common::Values,
    batch: &Batch,
    precision: Precision,
) -> (f64, BTreeMap<String, Vec<f64>>) {
    let slices = values.iter().map(|(name, shape, values)| (name.as_str(), shape.as_slice(), values.as_slice()));
    let reference = Reference::new(config, slices, precision).unwrap();
    reference.loss_and_grads(&batch.tokens, &batch.targets, batch.b, batch.t).unwrap()
}

/// Whether a number is below a limit, which a NaN is not.
fn below(value: f64, limit: f64) -> bool {
    value < limit
}

/// How far the engine's gradients are from the truth, compared with a plain computation (root mean squares).
///
/// # Errors
/// What is wrong with the engine's loss and gradients.
fn compare(config: &ModelConfig, seed: u64, batch: &Batch, how: &Pass) -> Result<f64, String> {
    let values = random_values(config, seed);
    let (exact_loss, exact) = truth(config, &values, batch, Precision::F64);
    let (plain_loss, plain) = truth(config, &values, batch, Precision::F32);
    let (model, params) = engine(config, &values);
    let (loss, grads) = loss_and_grads((&model, &params), batch, how);
    let epsilon = f64::from(f32::EPSILON);

    let (off, slack) = ((loss - exact_loss).abs(), 4.0 * (plain_loss - exact_loss).abs() + 4.0 * epsilon * exact_loss);
    if !below(off, slack) {
        return Err(format!("the loss {loss} is off by {off:e}, at most {slack:e}, in {config:?}"));
    }
    let infos = params.layout().infos();
    let ours = |info: &ParamInfo| wide(&grads.flat().f32()[info.range()]).collect::<Vec<f64>>();
    let squares = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let error: f64 = infos.iter().map(|info| squares(&ours(info), &exact[&info.name])).sum();
    let plain_error: f64 = exact.iter().map(|(name, exact)| squares(&plain[name], exact)).sum();
    let ratio = (error / plain_error).sqrt();
    if !below(ratio, 4.0) {
        return Err(format!("the gradients' error is {ratio} of a plain computation's, in {config:?}"));
    }
    let apart = |name: &String| distance(plain[name].iter().copied(), exact[name].iter().copied());
    let ruler = exact.keys().map(apart).fold(0.0, f64::max);
    for info in infos {
        let exact = &exact[&info.name];
        let (off, slack) = (distance(ours(info), exact.iter().copied()), 4.0 * ruler + 4.0 * epsilon * largest(exact));
        if !below(off, slack) {
            let name = &info.name;
            return Err(format!("the gradient of {name} is off by {off:e}, at most {slack:e}, in {config:?}"));
        }
    }
    Ok(ratio)
}

#[test]
fn every_combination_equals_the_reference_engine() {
    let product = product();
    assert_eq!(product.len(), 2304);
    let results: Vec<Result<f64, String>> = product
        .par_iter()
        .enumerate()
        .map(|(i, config)| {
            // Shorter than the context, so that a table's rest is not used; every other model recomputes its blocks.
            let batch = Batch::random(i as u64, 2, 9, config.vocab_size);
            let how = Pass { recompute: i % 2 == 1, ..Pass::default() };
            compare(config, i as u64, &batch, &how)
        })
        .collect();
    let complaints: Vec<&String> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(complaints.is_empty(), "{} of 2304 models, first:\n{}", complaints.len(), complaints[0]);
    let mut ratios: Vec<f64> = results.into_iter().flatten().collect();
    ratios.sort_by(f64::total_cmp);
    let (median, most) = (ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
    println!("error of the gradients, compared with a plain computation's: median {median:.2}, most {most:.2}");
    // Room for the sums of another machine.
    assert!(median < 1.2, "the engine's gradients have {median} times the error of a plain computation");
}

#[test]
fn sequences_longer_than_a_block_of_attention_equal_the_reference_engine() {
    // 150 tokens are three blocks of queries and two of keys.
    for (i, position) in POSITIONS.into_iter().enumerate() {
        let config = ModelConfig {
            position,
            context_length: 160,
            n_kv_head: [4, 2, 1][i],
            norm: NORMS[i % 2],
            mlp: MLPS[i + 1],
            tie_embeddings: i == 0,
            ..small()
        };
        let batch = Batch::random(5, 2, 150, config.vocab_size);
        let found = compare(&config, 9, &batch, &Pass::default());
        assert!(found.is_ok(), "{found:?}");
    }
}

#[test]
fn impossible_shapes_are_refused_with_the_key() {
    let says = |config: ModelConfig, part: &str| {
        let error = taper::model::Gpt::new(config).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    says(ModelConfig { n_kv_head: 3, ..small() }, "model.n_kv_head = 3");
    says(ModelConfig { position: Position::Rope, head_dim: 5, ..small() }, "even head_dim");
    says(ModelConfig { dropout: 1.0, ..small() }, "model.dropout = 1");
}
