//! LoRA: the gradient of the adapters, what is left alone, and merging, against `peft` and against the sum itself.

use super::common::{Batch, distance, engine, largest, llama, loss_and_grads, noise, random_values, small, wide};
use super::fixtures::folder;
use std::collections::BTreeMap;
use taper::arch::config::ModelConfig;
use taper::arch::lora::{Lora, LoraConfig};
use taper::checkpoint::adapter::{family, read_adapter, write_adapter};
use taper::checkpoint::{ModelFolder, read_model_folder};
use taper::model::Gpt;
use taper::model::gpt::Pass;
use taper::nn::Dropout;
use taper::optim::{Class, Hyper, Optimizer};
use taper::tape::Params;
use taper::tensor::Tensor;

fn lora(config: &ModelConfig, rank: usize, targets: &[&str]) -> Lora {
    let targets = targets.iter().map(|target| target.to_string()).collect();
    let lora = LoraConfig { rank: Some(rank), alpha: Some(1.5 * rank as f64), targets, dropout: 0.0 };
    lora.resolve(family(config).unwrap()).unwrap().unwrap()
}

/// A model with adapters whose B is not zero.
fn adapted(config: &ModelConfig, lora: Lora) -> (Gpt, Params) {
    let values = random_values(config, 3);
    let model = Gpt::with_adapters(config.clone(), Some(lora)).unwrap();
    let values = values.iter().map(|(name, _, values)| (name.as_str(), values.as_slice()));
    let mut params = model.with_base(values, 1).unwrap();
    let mut next = noise(8);
    let trained: Vec<f32> = params.trained().f32().iter().map(|value| value + 0.2 * next()).collect();
    params.load(&trained).unwrap();
    (model, params)
}

#[test]
fn gradients_of_adapters_are_central_differences() {
    for config in [small(), llama(&small())] {
        for dropout in [0.0, 0.3] {
            let (model, mut params) = adapted(&config, lora(&config, 3, &["all-linear"]));
            let batch = Batch::random(2, 2, 7, config.vocab_size);
            let sequences = [4, 5].into();
            let dropout = (dropout > 0.0).then_some(Dropout { seed: 3, step: 9, probability: dropout, sequences });
            let how = Pass { adapter_dropout: dropout, ..Pass::default() };
            let (_, grads) = loss_and_grads((&model, &params), &batch, &how);
            assert_eq!(grads.flat().len(), params.layout().trained());
            let start = params.trained().f32().to_vec();
            // Along a random direction of all adapters together.
            let mut next = noise(6);
            let direction: Vec<f32> = start.iter().map(|_| next()).collect();
            let at = |params: &mut Params, step: f32| {
                let moved: Vec<f32> = start.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
                params.load(&moved).unwrap();
                loss_and_grads((&model, params), &batch, &how).0
            };
            let step = 2e-3;
            let difference = (at(&mut params, step) - at(&mut params, -step)) / (2.0 * f64::from(step));
            // The gaps between parameters hold zeros, in the gradient too.
            let along: f64 =
                grads.flat().f32().iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
            assert!((along - difference).abs() < 2e-3 * difference.abs().max(0.1), "{along} and {difference}");
        }
    }
}

#[test]
fn recomputation_changes_nothing_and_the_base_stays() {
    let config = llama(&small());
    let (model, mut params) = adapted(&config, lora(&config, 2, &["q_proj", "v_proj", "down_proj"]));
    let batch = Batch::random(2, 2, 7, config.vocab_size);
    let (_, grads) = loss_and_grads((&model, &params), &batch, &Pass::default());
    let (_, again) = loss_and_grads((&model, &params), &batch, &Pass { recompute: true, ..Pass::default() });
    assert_eq!(grads.flat().f32(), again.flat().f32());
    assert!(params.layout().infos().iter().filter(|info| info.name.contains("lora_")).count() == 2 * 3 * 2);

    let frozen = params.layout().frozen();
    let before = params.flat().f32().to_vec();
    let hyper = Hyper { clip_norm: Some(1.0), ..Hyper::default() };
    let mut optimizer = Optimizer::new(hyper, &params).unwrap();
    let outcome = optimizer.step(&mut params, &grads, 1.0, 0.01);
    assert!(matches!(outcome.class, Class::Finite | Class::Clipped));
    assert_eq!(optimizer.part().len(), params.layout().trained());
    assert_eq!(before[..frozen], params.flat().f32()[..frozen]);
    assert!(before[frozen..] != params.flat().f32()[frozen..]);
}

/// The logits of a folder whose adapters were merged.
fn merged_logits(model: &ModelFolder, batch: &Tensor) -> Vec<f32> {
    let (model, params) = engine(&model.config, &model.params);
    model.logits(&params, batch).unwrap().f32().to_vec()
}

#[test]
fn merged_weights_give_the_logits_of_the_sum() {
    for config in [small(), llama(&small())] {
        // Of full rank, and on some layers only.
        for (rank, targets) in [(config.n_embd, &["all-linear"][..]), (2, &["c_proj", "q_proj", "gate_proj"])] {
            let known = family(&config).unwrap().modules;
            let targets: Vec<&str> =
                targets.iter().copied().filter(|t| *t == "all-linear" || known.iter().any(|m| m.name == *t)).collect();
            let (model, params) = adapted(&config, lora(&config, rank, &targets));
            let folder = tempfile::tempdir().unwrap();
            let written = write_adapter(folder.path(), model.lora().unwrap(), "base", model.layout(), &params).unwrap();
            assert_eq!(written.name, "adapter_model.safetensors");
            let adapter = read_adapter(folder.path()).unwrap();
            assert_eq!(adapter.base, "base");
            let base = random_values(&config, 3);
            let mut merged = ModelFolder { config: config.clone(), params: base, eos: None, notes: Vec::new() };
            adapter.merge(folder.path(), &mut merged).unwrap();
            let batch = Batch::random(2, 2, 7, config.vocab_size).tensor();
            let beside = model.logits(&params, &batch).unwrap();
            let truth: Vec<f64> = wide(beside.f32()).collect();
            let off = distance(wide(&merged_logits(&merged, &batch)), truth.iter().copied());
            assert!(off < 3e-6 * largest(&truth), "rank {rank} on {targets:?}: off by {off:e}");
            let plain = ModelFolder { config: config.clone(), params: random_values(&config, 3), ..merged };
            assert!(distance(wide(&merged_logits(&plain, &batch)), truth.iter().copied()) > 1e-2);
        }
    }
}

/// The fixtures are made by `scripts/make_peft_fixtures.py`.
#[test]
fn adapters_of_peft_give_its_logits() {
    for name in ["gpt2_all", "gpt2_attention", "llama_all", "llama_rslora"] {
        let at = folder("adapters").join(name);
        let adapter = read_adapter(&at).unwrap();
        let mut model = read_model_folder(&folder(&adapter.base)).unwrap();
        adapter.merge(&at, &mut model).unwrap();
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(at.join("expected.json")).unwrap()).unwrap();
        let list = |value: &serde_json::Value| value.as_array().unwrap().clone();
        let tokens: Vec<u32> =
            list(&expected["tokens"]).iter().flat_map(list).map(|id| id.as_u64().unwrap() as u32).collect();
        let logits: Vec<f64> = list(&expected["logits"]).iter().map(|logit| logit.as_f64().unwrap()).collect();
        let found = merged_logits(&model, &Tensor::from_u32(&tokens, &[2, 9]).unwrap());
        let off = distance(wide(&found), logits.iter().copied());
        assert!(off < 3e-6 * largest(&logits), "{name}: off by {off:e}");
    }
}

#[test]
fn what_is_no_adapter_of_ours_is_refused() {
    let source = folder("adapters").join("gpt2_attention");
    let refused = |edit: &dyn Fn(&mut serde_json::Value), words: &str| {
        let copy = tempfile::tempdir().unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(source.join(file), copy.path().join(file)).unwrap();
        }
        let path = copy.path().join("adapter_config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
        let error = read_adapter(copy.path()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&|config| config["peft_type"] = "IA3".into(), "peft_type");
    refused(&|config| config["use_dora"] = true.into(), "use_dora");
    refused(&|config| config["modules_to_save"] = vec!["wte"].into(), "modules_to_save");
    refused(&|config| config["r"] = 3.into(), "the rank is 3");
    refused(&|config| config["r"] = 0.into(), "no rank");
    refused(&|config| config["base_model_name_or_path"] = serde_json::Value::Null, "base_model_name_or_path");
    // On a model of another shape.
    let adapter = read_adapter(&source).unwrap();
    let mut other = read_model_folder(&folder("llama_tiny")).unwrap();
    assert!(adapter.merge(&source, &mut other).unwrap_err().to_string().contains("no layer to correct"));
    let mut other = read_model_folder(&folder("gpt2_erf_untied")).unwrap();
    assert!(adapter.merge(&source, &mut other).unwrap_err().to_string().contains("the layer is"));
    let gpt2 = family(&small()).unwrap();
    let config = LoraConfig { rank: Some(2), targets: vec!["q_proj".into()], ..LoraConfig::default() };
    let error = config.resolve(gpt2).unwrap_err().to_string();
    assert!(error.contains("q_proj") && error.contains("c_attn, c_proj, c_fc"), "{error}");
    let all = LoraConfig { rank: Some(2), ..LoraConfig::default() }.resolve(gpt2).unwrap().unwrap();
    assert_eq!((all.targets, all.alpha), (["c_attn", "c_proj", "c_fc"].map(String::from).to_vec(), 4.0));
    let modules = family(&llama(&small())).unwrap().modules;
    let seen: BTreeMap<&str, Option<usize>> = modules.iter().map(|m| (m.name, m.part)).collect();
    assert_eq!(seen.len(), 7);
}
