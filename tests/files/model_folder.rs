//! Model folders: what we read equals what transformers wrote, what we write equals it too, and how it comes back.
//!
//! The truth is `tests/fixtures`, folders by transformers' own `save_pretrained`, translated independently in
//! `common/fixtures.rs`, and the file format as the `safetensors` crate reads and writes it.

use crate::fixtures::{self, ALL, Fixture};
use crate::folders::{Params, Raw, base, edited, error_of, json_of, raw, write_raw, written};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use taper::arch::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use taper::arch::layout::parameter_shapes;
use taper::checkpoint::{FolderKind, ModelFolder, read_model_folder, write_model_folder};
use taper::reference::{Precision, Reference};
use tempfile::TempDir;

fn logits(config: &ModelConfig, params: &Params, tokens: &[u32], b: usize, t: usize) -> Vec<f64> {
    let slices = params.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), v.as_slice()));
    Reference::new(config, slices, Precision::F64).unwrap().logits(tokens, b, t).unwrap()
}

fn sorted(params: &Params) -> BTreeMap<&str, &[f32]> {
    params.iter().map(|(n, _, v)| (n.as_str(), v.as_slice())).collect()
}

#[test]
fn folders_of_transformers_are_read_as_they_are() {
    for name in ALL {
        let f = Fixture::load(name);
        let read = read_model_folder(&fixtures::folder(name)).unwrap();
        assert_eq!(read.config, f.config, "{name}");
        assert_eq!(read.eos, Some(0));
        assert!(read.notes.is_empty());
        let shapes: Vec<_> = read.params.iter().map(|(n, s, _)| (n.clone(), s.clone())).collect();
        assert_eq!(shapes, parameter_shapes(&f.config), "{name}: arena order");
        let expected = f.params_f32();
        assert_eq!(sorted(&read.params), sorted(&expected), "{name}");
        let ours = logits(&read.config, &read.params, &f.tokens, f.b, f.t);
        let off = ours.iter().zip(&f.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 1e-12, "{name}: logits are off by {off:e}");
    }
}

#[test]
fn written_folders_hold_the_tensors_and_keys_of_transformers() {
    for name in ALL {
        let read = read_model_folder(&fixtures::folder(name)).unwrap();
        let dir = TempDir::new().unwrap();
        let written = write_model_folder(dir.path(), &read.config, &read.params, read.eos).unwrap();
        let file = dir.path().join("model.safetensors");
        assert!(raw(&file) == raw(&fixtures::folder(name).join("model.safetensors")), "{name}: tensors differ");
        let bytes = std::fs::read(&file).unwrap();
        let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!((written.sha256, written.bytes), (digest, bytes.len() as u64));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
        let (ours, theirs) =
            (json_of(&dir.path().join("config.json")), json_of(&fixtures::folder(name).join("config.json")));
        for (key, value) in ours.as_object().unwrap() {
            if let Some(theirs) = theirs.get(key) {
                assert_eq!(value, theirs, "{name}: {key}");
            } else {
                assert!(["n_ctx", "rope_theta", "taper"].contains(&key.as_str()), "{name}: {key} is none of theirs");
            }
        }
        assert_eq!(json_of(&dir.path().join("generation_config.json"))["eos_token_id"], 0);
    }
}

#[test]
fn every_shape_comes_back_exactly() {
    let mut kinds = BTreeMap::new();
    for index in 0..2 * 2 * 3 * 4 * 2 * 2 * 2 * 2 {
        // A number in mixed radix: one digit for each option.
        let mut rest = index;
        let mut digit = |radix: usize| {
            let digit = rest % radix;
            rest /= radix;
            digit
        };
        let config = ModelConfig {
            norm: [Norm::Layernorm, Norm::Rmsnorm][digit(2)],
            norm_position: [NormPosition::Pre, NormPosition::Post][digit(2)],
            position: [Position::Learned, Position::Rope, Position::None][digit(3)],
            mlp: [Mlp::Gelu, Mlp::GeluErf, Mlp::Relu2, Mlp::Swiglu][digit(4)],
            qkv_bias: digit(2) == 1,
            bias: digit(2) == 1,
            tie_embeddings: digit(2) == 1,
            n_kv_head: [1, 2][digit(2)],
            dropout: [0.0, 0.2][index % 2],
            ..base()
        };
        let eos = [None, Some(7)][index / 2 % 2];
        let layout = FolderKind::of(&config);
        *kinds.entry(layout.architecture()).or_insert(0) += 1;
        // Folders are made durable, which takes its time: of our own layout, where names are names, a sample will do.
        if matches!(layout, FolderKind::Own { .. }) && index % 13 != 0 {
            continue;
        }
        let (dir, params) = written(&config, eos);
        let read = read_model_folder(dir.path()).unwrap();
        assert_eq!(read, ModelFolder { config: config.clone(), params, eos, notes: vec![] });
        if let FolderKind::Own { reasons } = &layout {
            assert!(!reasons.is_empty());
            assert_eq!(json_of(&dir.path().join("config.json"))["model_type"], "taper");
        }
    }
    // Pre norms, own positions: GPT-2 has 3 mlps and 1 choice of kv heads, Llama 1 and 2; 8 combinations of the switches.
    assert_eq!(kinds["GPT2LMHeadModel"], 24);
    assert_eq!(kinds["LlamaForCausalLM"], 16);
    assert_eq!(kinds["TaperForCausalLM"], 768 - 40);
}

#[test]
fn a_shape_of_our_own_says_which_options_cause_it() {
    let reasons = |config: ModelConfig| match FolderKind::of(&config) {
        FolderKind::Own { reasons } => reasons.join("; "),
        other => panic!("{other:?}"),
    };
    let text = reasons(ModelConfig { position: Position::Rope, ..base() });
    assert_eq!(text, "position = \"rope\" (GPT-2 has learned positions)");
    let llama = ModelConfig { norm: Norm::Rmsnorm, position: Position::Rope, mlp: Mlp::Swiglu, ..base() };
    assert_eq!(FolderKind::of(&llama).family().map(|family| family.name), Some("Llama"));
    assert_eq!(
        reasons(ModelConfig { mlp: Mlp::Gelu, n_kv_head: 1, ..llama.clone() }),
        "an mlp other than \"swiglu\" (Llama has only that)"
    );
    assert!(
        reasons(ModelConfig { n_head: 3, n_kv_head: 3, ..llama }).contains("n_head = 3 does not divide n_embd = 8")
    );
    let wide = ModelConfig { head_dim: 8, ..base() };
    assert_eq!(reasons(wide), "head_dim = 8 (GPT-2 has n_embd / n_head)");
}

#[test]
fn absent_biases_are_written_as_zeros_and_stay_absent_unless_something_fills_them() {
    let config = ModelConfig { bias: false, qkv_bias: false, ..base() };
    let (dir, params) = written(&config, None);
    let file = dir.path().join("model.safetensors");
    let mut tensors = raw(&file);
    assert!(tensors["transformer.h.1.mlp.c_fc.bias"].2.iter().all(|&b| b == 0));
    assert_eq!(tensors.len(), 2 + 2 * 12 + 2);
    // As if transformers had trained on: one bias is no longer zero.
    tensors.get_mut("transformer.h.1.mlp.c_fc.bias").unwrap().2[..4].copy_from_slice(&0.5f32.to_le_bytes());
    write_raw(&file, &tensors);
    let read = read_model_folder(dir.path()).unwrap();
    assert_eq!(read.config, ModelConfig { bias: true, qkv_bias: true, rope_theta: 10000.0, ..config });
    assert_eq!(read.notes, ["transformer.h.1.mlp.c_fc.bias is not zero, so the model is taken to have biases"]);
    let (values, old) = (sorted(&read.params), sorted(&params));
    assert_eq!(values["h.1.mlp.up.bias"][0], 0.5);
    assert_eq!(values["h.0.attn.qkv.weight"], old["h.0.attn.qkv.weight"]);
}

#[test]
fn a_config_that_was_changed_by_others_is_believed_over_our_own_key() {
    let (dir, _) = written(&ModelConfig { bias: false, ..base() }, None);
    let path = dir.path().join("config.json");
    let mut keys = json_of(&path);
    keys["layer_norm_epsilon"] = json!(1e-3);
    std::fs::write(&path, keys.to_string()).unwrap();
    let read = read_model_folder(dir.path()).unwrap();
    assert_eq!((read.config.norm_eps, read.config.bias), (1e-3, true));
    assert!(read.notes[0].contains("changed since taper wrote it"), "{:?}", read.notes);
}

#[test]
fn old_and_base_model_folders_are_read() {
    // openai-community/gpt2: no prefix, causal masks as buffers, and here a second copy of the tied embedding.
    let f = Fixture::load("gpt2_tiny");
    let dir = edited("gpt2_tiny", |_, tensors| {
        let wte = tensors["transformer.wte.weight"].clone();
        *tensors = std::mem::take(tensors).into_iter().map(|(n, t)| (n.replace("transformer.", ""), t)).collect();
        tensors.insert("h.0.attn.bias".into(), (Dtype::BOOL, vec![1, 1, 4, 4], vec![1; 16]));
        tensors.insert("h.0.attn.masked_bias".into(), (Dtype::F32, vec![], vec![0; 4]));
        tensors.insert("lm_head.weight".into(), wte);
    });
    assert_eq!(sorted(&read_model_folder(dir.path()).unwrap().params), sorted(&f.params_f32()));

    // transformers 4: rope_theta next to, null scaling, no head_dim; then the same in the other spelling of "default".
    let f = Fixture::load("llama_tiny");
    for scaling in [Value::Null, json!({"type": "default"})] {
        let dir = edited("llama_tiny", |config, _| {
            let keys = config.as_object_mut().unwrap();
            keys.remove("rope_parameters");
            keys.remove("head_dim");
            keys.insert("rope_theta".into(), json!(5000.0));
            keys.insert("rope_scaling".into(), scaling);
            keys.insert("eos_token_id".into(), json!([5, 6]));
        });
        let read = read_model_folder(dir.path()).unwrap();
        assert_eq!(read.config, ModelConfig { rope_theta: 5000.0, ..f.config.clone() });
        assert_eq!(read.eos, Some(5));
    }

    // Biases in attention alone: ours are for all linear layers, so the feed-forward ones are zeros.
    let dir = edited("llama_tied_bias", |config, tensors| {
        config["mlp_bias"] = json!(false);
        tensors.retain(|name, _| !(name.contains("mlp") && name.ends_with("bias")));
    });
    let read = read_model_folder(dir.path()).unwrap();
    assert!(read.config.bias && sorted(&read.params)["h.0.mlp.down.bias"].iter().all(|&x| x == 0.0));
}

#[test]
fn half_precision_and_shards_are_read() {
    let f = Fixture::load("llama_tiny");
    type Narrow = fn(f32) -> Vec<u8>;
    let bf16: Narrow = |x| half::bf16::from_f32(x).to_le_bytes().to_vec();
    let f16: Narrow = |x| half::f16::from_f32(x).to_le_bytes().to_vec();
    let wide: Narrow = |x| (x as f64).to_le_bytes().to_vec();
    for (dtype, narrow, relative) in
        [(Dtype::BF16, bf16, 1.0 / 256.0), (Dtype::F16, f16, 1.0 / 2048.0), (Dtype::F64, wide, 0.0)]
    {
        let dir = edited("llama_tiny", |_, tensors| {
            for (kind, _, bytes) in tensors.values_mut() {
                *bytes = bytes.chunks(4).flat_map(|b| narrow(f32::from_le_bytes(b.try_into().unwrap()))).collect();
                *kind = dtype;
            }
        });
        let read = read_model_folder(dir.path()).unwrap();
        let expected = f.params_f32();
        let expected = sorted(&expected);
        for (name, _, values) in &read.params {
            for (x, y) in values.iter().zip(expected[name.as_str()]) {
                // Half a unit in the last place, and float16's subnormal step.
                assert!(
                    (x - y).abs() <= relative * y.abs() + if relative > 0.0 { 6e-8 } else { 0.0 },
                    "{name}: {x} {y}"
                );
            }
        }
    }

    let dir = edited("llama_tiny", |_, _| {});
    let all = raw(&dir.path().join("model.safetensors"));
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    for part in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", part + 1);
        let some: Raw =
            all.iter().enumerate().filter(|(i, _)| i % 2 == part).map(|(_, (n, t))| (n.clone(), t.clone())).collect();
        some.keys().for_each(|name| drop(map.insert(name.clone(), json!(file))));
        write_raw(&dir.path().join(file), &some);
    }
    let index = dir.path().join("model.safetensors.index.json");
    let write_index =
        |map: &Value| std::fs::write(&index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    let map = Value::Object(map);
    write_index(&map);
    assert_eq!(sorted(&read_model_folder(dir.path()).unwrap().params), sorted(&f.params_f32()));
    let mut wrong = map.clone();
    wrong["model.norm.weight"] = json!("../elsewhere.safetensors");
    write_index(&wrong);
    assert!(error_of(dir.path()).contains("which is no file name"));
    wrong["model.norm.weight"] = map["lm_head.weight"].clone();
    let other = map.as_object().unwrap().values().find(|v| **v != map["model.norm.weight"]).unwrap().clone();
    wrong["model.norm.weight"] = other;
    write_index(&wrong);
    assert!(error_of(dir.path()).contains("holds tensor model.norm.weight, and it does not"));
    write_index(&map);
    std::fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert!(error_of(dir.path()).contains("model-00002-of-00002.safetensors: there is no such file"));
}

/// For each shape that transformers has, our folder loads there and computes what the reference engine computes. Runs where
/// the environment names a Python with torch and transformers: `TAPER_PYTHON=python3 cargo test --test model_folder`.
#[test]
fn transformers_loads_our_folders() {
    let Ok(python) = std::env::var("TAPER_PYTHON") else {
        println!("skipped: TAPER_PYTHON names no Python with transformers");
        return;
    };
    let llama = ModelConfig { norm: Norm::Rmsnorm, position: Position::Rope, mlp: Mlp::Swiglu, ..base() };
    let mut shapes = vec![
        ModelConfig { mlp: Mlp::GeluErf, ..base() },
        ModelConfig { mlp: Mlp::Relu2, mlp_dim: 32, ..base() },
        ModelConfig { head_dim: 6, n_kv_head: 1, ..llama.clone() },
    ];
    for (qkv_bias, bias, tie_embeddings) in
        [(true, true, true), (true, false, false), (false, true, false), (false, false, true)]
    {
        shapes.extend([base(), llama.clone()].map(|s| ModelConfig { qkv_bias, bias, tie_embeddings, ..s }));
    }
    let ids: Vec<u32> = (0..14).map(|i| i * i * 3 % 11).collect();
    for (index, config) in shapes.iter().enumerate() {
        let (dir, params) = written(config, [None, Some(10)][index % 2]);
        let (ids_file, logits_file) = (dir.path().join("ids.json"), dir.path().join("logits.json"));
        std::fs::write(&ids_file, json!(ids).to_string()).unwrap();
        let run = std::process::Command::new(&python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check_folder.py"))
            .args([dir.path(), "--ids".as_ref(), &ids_file, "--logits".as_ref(), &logits_file])
            .output()
            .unwrap();
        assert!(run.status.success(), "{config:?}\n{}", String::from_utf8_lossy(&run.stderr));
        let result: Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!(result["architecture"], FolderKind::of(config).architecture());
        assert_eq!(result["predictions"], ids.len() - 1);
        let theirs: Vec<Vec<f64>> = serde_json::from_slice(&std::fs::read(&logits_file).unwrap()).unwrap();
        let ours = logits(config, &params, &ids[..5], 1, 5);
        let off = theirs.concat().iter().zip(&ours).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(theirs.concat().len() == ours.len() && off < 1e-5, "{config:?}: logits are off by {off:e}");
        println!("{}: logits to {off:.1e}, {}", FolderKind::of(config).architecture(), result["loss"]);
        // Windows of five inputs, as in `taper eval`.
        let mut sum = 0.0;
        for start in (0..13).step_by(5) {
            let end = 13.min(start + 5);
            let slices = params.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), v.as_slice()));
            let model = Reference::new(config, slices, Precision::F64).unwrap();
            let n = end - start;
            sum += n as f64 * model.loss(&ids[start..end], &ids[start + 1..end + 1], 1, n).unwrap();
        }
        assert!((result["loss"].as_f64().unwrap() - sum / 13.0).abs() < 1e-5);
    }
}

/// Saved again by transformers, our key "taper" is still there, and with it the absence of biases. Runs as the test above.
#[test]
fn our_key_survives_transformers() {
    let Ok(python) = std::env::var("TAPER_PYTHON") else {
        println!("skipped: TAPER_PYTHON names no Python with transformers");
        return;
    };
    let llama = ModelConfig { norm: Norm::Rmsnorm, position: Position::Rope, mlp: Mlp::Swiglu, ..base() };
    for shape in [base(), llama] {
        let config = ModelConfig { bias: false, ..shape };
        let (dir, params) = written(&config, None);
        let again = dir.path().join("again");
        let program = "import sys; from transformers import AutoModelForCausalLM as A; \
                       A.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])";
        let run =
            std::process::Command::new(&python).args(["-c", program]).args([dir.path(), &again]).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let read = read_model_folder(&again).unwrap();
        assert_eq!(read, ModelFolder { config, params, eos: None, notes: vec![] });
    }
}
