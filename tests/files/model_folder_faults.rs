//! Broken, foreign and mutated model folders: each is refused with a sentence that names the place, and none panics.

use crate::fixtures;
use crate::folders::{Params, Raw, base, edited, error_of, params_of, written};
use proptest::prelude::*;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use std::sync::OnceLock;
use taper::arch::config::ModelConfig;
use taper::checkpoint::{ModelFolder, read_model_folder, write_model_folder};
use tempfile::TempDir;

#[test]
fn what_taper_has_not_is_refused_with_the_key() {
    let refused = |name: &str, key: &str, value: Value, part: &str| {
        let dir = edited(name, |config, _| config[key] = value);
        let message = error_of(dir.path());
        assert!(message.contains(part) && message.contains("config.json"), "{key}: {message}");
    };
    refused("llama_tiny", "model_type", json!("mamba"), "model_type \"mamba\"");
    refused("llama_tiny", "model_type", Value::Null, "no \"model_type\"");
    refused("llama_tiny", "model_type", json!("taper"), "no \"taper\" key");
    refused("llama_tiny", "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "type \"yarn\"");
    refused("llama_tiny", "rope_parameters", json!({"rope_type": "llama3", "rope_theta": 1e4}), "type \"llama3\"");
    refused("llama_tiny", "rope_parameters", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor");
    refused("llama_tiny", "hidden_act", json!("gelu"), "\"hidden_act\" is \"gelu\"");
    refused("llama_tiny", "quantization_config", json!({"bits": 4}), "quantized");
    refused("llama_tiny", "hidden_size", json!("wide"), "\"hidden_size\" is \"wide\", not a whole number");
    refused("llama_tiny", "hidden_size", json!(-1), "\"hidden_size\" is -1, not a whole number");
    refused("llama_tiny", "vocab_size", Value::Null, "the key \"vocab_size\" is missing");
    refused("llama_tiny", "num_hidden_layers", json!(1u64 << 29), "layers, and the weights hold only");
    refused("llama_tiny", "num_hidden_layers", json!(0), "model.n_layer is 0");
    refused("llama_tiny", "num_key_value_heads", json!(3), "does not divide");
    refused("llama_tiny", "taper", json!({"n_layer": 2}), "the key \"taper\" is not a model's shape");
    refused("gpt2_tiny", "activation_function", json!("mish"), "\"activation_function\" is \"mish\"");
    refused("gpt2_tiny", "scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx");
    refused("gpt2_tiny", "n_head", json!(5), "does not divide");

    let dir = TempDir::new().unwrap();
    assert!(error_of(&dir.path().join("nowhere")).contains("there is no such file or folder"));
    assert!(error_of(dir.path()).contains("config.json: there is no such file"));
    std::fs::write(dir.path().join("config.json"), "{\"model_type\": ").unwrap();
    assert!(error_of(dir.path()).contains("is not valid JSON"));
    std::fs::copy(fixtures::folder("gpt2_tiny").join("config.json"), dir.path().join("config.json")).unwrap();
    assert!(error_of(dir.path()).contains("holds no model.safetensors"));
    std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    assert!(error_of(dir.path()).contains("a pickle"));
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let message = |edit: &dyn Fn(&mut Raw)| error_of(edited("gpt2_tiny", |_, tensors| edit(tensors)).path());
    let missing = message(&|t| drop(t.remove("transformer.h.1.ln_2.bias")));
    assert!(missing.contains("no tensor transformer.h.1.ln_2.bias"), "{missing}");
    let left_over = message(&|t| drop(t.insert("transformer.h.2.ln_1.bias".into(), (Dtype::F32, vec![1], vec![0; 4]))));
    assert!(left_over.contains("holds tensor transformer.h.2.ln_1.bias of shape [1]"), "{left_over}");
    let shape = message(&|t| t.get_mut("transformer.wpe.weight").unwrap().1 = vec![36, 24]);
    assert!(shape.contains("transformer.wpe.weight has shape [36, 24]; config.json asks for [24, 36]"), "{shape}");
    let whole = message(&|t| {
        t.get_mut("transformer.wpe.weight").unwrap().0 = Dtype::I32;
    });
    assert!(whole.contains("transformer.wpe.weight is of dtype I32"), "{whole}");
    let head = message(&|t| {
        let mut wte = t["transformer.wte.weight"].clone();
        wte.2[0] ^= 1;
        t.insert("lm_head.weight".into(), wte);
    });
    assert!(head.contains("lm_head.weight other than the token embedding"), "{head}");
}

#[test]
fn a_truncated_file_is_found_at_every_length() {
    let (dir, _) = written(&base(), None);
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in (0..bytes.len()).step_by(97).chain(bytes.len() - 9..bytes.len()) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let message = error_of(dir.path());
        assert!(message.contains("model.safetensors"), "{length}: {message}");
    }
    let mut long = bytes.clone();
    long.extend([0; 4]);
    std::fs::write(&path, long).unwrap();
    assert!(error_of(dir.path()).contains("4 bytes that belong to no tensor"));
}

#[test]
fn parameters_that_do_not_fit_the_shape_are_not_written() {
    let mut params = params_of(&base());
    params[0].2.pop();
    let dir = TempDir::new().unwrap();
    let error = write_model_folder(dir.path(), &base(), &params, None).unwrap_err();
    assert_eq!(error.to_string(), "parameter wte.weight has 87 values, and the model's shape asks for 88");
    params.remove(0);
    let error = write_model_folder(dir.path(), &base(), &params, None).unwrap_err();
    assert_eq!(error.to_string(), "the model has no parameter wte.weight");
}

/// A written folder of one layer, made once for all mutations: its parameters, config.json and model.safetensors.
fn specimen() -> &'static (Params, Vec<u8>, Vec<u8>) {
    static SPECIMEN: OnceLock<(Params, Vec<u8>, Vec<u8>)> = OnceLock::new();
    SPECIMEN.get_or_init(|| {
        let (dir, params) = written(&ModelConfig { n_layer: 1, ..base() }, Some(3));
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        (params, read("config.json"), read("model.safetensors"))
    })
}

fn read_bytes(config: &[u8], tensors: &[u8]) -> taper::Result<ModelFolder> {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), tensors).unwrap();
    read_model_folder(dir.path())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in the header: an error, or a model of the same shape (white space and metadata may change). Never
    /// a panic.
    #[test]
    fn a_mutated_header_never_panics(at in 0usize..9999, byte in any::<u8>(), more in 0usize..9999, other in any::<u8>()) {
        let (params, config, tensors) = specimen();
        let mut bytes = tensors.clone();
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[at % end] = byte;
        bytes[more % end] = other;
        if let Ok(read) = read_bytes(config, &bytes) {
            let shapes: Vec<_> = read.params.iter().map(|(n, s, v)| (n.clone(), s.clone(), v.len())).collect();
            let expected: Vec<_> = params.iter().map(|(n, s, v)| (n.clone(), s.clone(), v.len())).collect();
            prop_assert_eq!(shapes, expected);
        }
    }

    /// The same for config.json, cut off or with a byte changed; digits mostly, which make other shapes.
    #[test]
    fn a_mutated_config_never_panics(at in 0usize..9999, byte in prop_oneof![b'0'..=b'9', 32u8..127], cut in any::<bool>()) {
        let (_, config, tensors) = specimen();
        let mut bytes = config.clone();
        let at = at % (bytes.len() - 2);
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        prop_assert!(read_bytes(&bytes, tensors).is_err() || !cut);
    }
}
