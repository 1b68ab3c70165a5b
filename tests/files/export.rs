//! GGUF files, llm.c files and conversions.
//!
//! Truth: candle's GGUF reader (an implementation apart from ours) reads what we write; llm.c's file is built here byte by
//! byte from its description; expected values are those of the model that went in, rearranged by hand. That llama.cpp itself
//! loads the files is checked by `scripts/check_gguf.py`.

use crate::folders::{base, json_of, params_of, raw, written};
use crate::program::{taper, told};
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use safetensors::tensor::Dtype;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use taper::arch::config::{Mlp, ModelConfig, Norm, Position};
use taper::checkpoint::convert::{Biases, change_biases, crop_vocabulary};
use taper::checkpoint::gguf::{GgufType, Vocabulary, write_gguf};
use taper::checkpoint::llmc::read_llmc;
use taper::checkpoint::{ModelFolder, Packing, WeightType, read_model_folder, write_model_folder_as};
use taper::data::tokenizer::Tokenizer;
use tempfile::TempDir;

const F32: GgufType = GgufType::Plain(WeightType::F32);

fn llama() -> ModelConfig {
    ModelConfig { norm: Norm::Rmsnorm, position: Position::Rope, mlp: Mlp::Swiglu, n_kv_head: 1, ..base() }
}

/// Writes and reads back: metadata, and every tensor as float32 with ggml's name of its type.
type Read = (BTreeMap<String, Value>, BTreeMap<String, (Vec<usize>, Vec<f32>, String)>);

fn exported(config: &ModelConfig, weights: GgufType, vocabulary: Option<&Vocabulary>) -> Read {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("m.gguf");
    write_gguf(&path, "tiny", config, &params_of(config), weights, vocabulary).unwrap();
    let mut file = std::fs::File::open(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[..8], *b"GGUF\x03\0\0\0");
    let content = Content::read(&mut file).unwrap();
    let tensors = content.tensor_infos.iter().map(|(name, info)| {
        let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
        let values = tensor.flatten_all().unwrap().to_vec1().unwrap();
        (name.clone(), (tensor.dims().to_vec(), values, format!("{:?}", info.ggml_dtype)))
    });
    (content.metadata.clone().into_iter().collect(), tensors.collect())
}

fn texts(value: &Value) -> Vec<String> {
    value.to_vec().unwrap().iter().map(|text| text.to_string().unwrap().clone()).collect()
}

fn by_name(config: &ModelConfig) -> BTreeMap<String, Vec<f32>> {
    params_of(config).into_iter().map(|(name, _, values)| (name, values)).collect()
}

#[test]
fn gpt2_stands_in_the_file_as_it_is() {
    let config = ModelConfig { bias: false, tie_embeddings: false, ..base() };
    let (meta, tensors) = exported(&config, F32, None);
    assert_eq!(meta["general.architecture"].to_string().unwrap(), "gpt2");
    assert_eq!(meta["general.name"].to_string().unwrap(), "tiny");
    assert_eq!(meta["tokenizer.ggml.model"].to_string().unwrap(), "no_vocab");
    for (key, expected) in [
        ("general.file_type", 0),
        ("general.quantization_version", 2),
        ("gpt2.vocab_size", 11),
        ("gpt2.context_length", 5),
        ("gpt2.embedding_length", 8),
        ("gpt2.block_count", 2),
        ("gpt2.feed_forward_length", 12),
        ("gpt2.attention.head_count", 2),
    ] {
        assert_eq!(meta[key].to_u32().unwrap(), expected, "{key}");
    }
    assert_eq!(meta["gpt2.attention.layer_norm_epsilon"].to_f32().unwrap(), 1e-5);
    let ours = by_name(&config);
    // llama.cpp's names by hand.
    let mut expected = vec![
        ("token_embd.weight".to_string(), "wte.weight".to_string(), vec![11, 8]),
        ("position_embd.weight".into(), "wpe.weight".into(), vec![5, 8]),
        ("output_norm.weight".into(), "norm_f.weight".into(), vec![8]),
        ("output.weight".into(), "lm_head.weight".into(), vec![11, 8]),
    ];
    let mut zeros = vec![("output_norm.bias".to_string(), 8)];
    for i in 0..2 {
        for (theirs, own, shape) in [
            ("attn_norm.weight", "norm_1.weight", vec![8]),
            ("attn_qkv.weight", "attn.qkv.weight", vec![24, 8]),
            ("attn_qkv.bias", "attn.qkv.bias", vec![24]),
            ("attn_output.weight", "attn.proj.weight", vec![8, 8]),
            ("ffn_norm.weight", "norm_2.weight", vec![8]),
            ("ffn_up.weight", "mlp.up.weight", vec![12, 8]),
            ("ffn_down.weight", "mlp.down.weight", vec![8, 12]),
        ] {
            expected.push((format!("blk.{i}.{theirs}"), format!("h.{i}.{own}"), shape));
        }
        zeros.extend(
            [("attn_norm", 8), ("attn_output", 8), ("ffn_norm", 8), ("ffn_up", 12), ("ffn_down", 8)]
                .map(|(name, size)| (format!("blk.{i}.{name}.bias"), size)),
        );
    }
    assert_eq!(tensors.len(), expected.len() + zeros.len());
    for (theirs, own, shape) in expected {
        assert_eq!(tensors[&theirs], (shape, ours[&own].clone(), "F32".into()), "{theirs}");
    }
    for (name, size) in zeros {
        assert_eq!(tensors[&name].1, vec![0.0; size], "{name}");
    }
}

#[test]
fn llama_is_unpacked_and_its_rotations_interleaved() {
    let config = llama(); // 2 query heads and 1 key-value head of size 4, width 8, mlp width 12
    let (meta, tensors) = exported(&config, F32, None);
    for (key, expected) in [
        ("llama.attention.head_count", 2),
        ("llama.attention.head_count_kv", 1),
        ("llama.attention.key_length", 4),
        ("llama.attention.value_length", 4),
        ("llama.rope.dimension_count", 4),
    ] {
        assert_eq!(meta[key].to_u32().unwrap(), expected, "{key}");
    }
    assert_eq!(meta["llama.rope.freq_base"].to_f32().unwrap(), 777.0);
    assert_eq!(meta["llama.attention.layer_norm_rms_epsilon"].to_f32().unwrap(), 1e-5);
    assert!(!tensors.contains_key("output.weight"), "tied");
    let ours = by_name(&config);
    let rows = |name: &str, columns: usize, rows: &[usize]| -> Vec<f32> {
        rows.iter().flat_map(|row| ours[name][row * columns..][..columns].to_vec()).collect()
    };
    for i in 0..2 {
        let (qkv, bias) = (format!("h.{i}.attn.qkv.weight"), format!("h.{i}.attn.qkv.bias"));
        // Rotate-half pairs row r with r + 2 of a head of 4; ggml pairs neighbours: 0 2 1 3.
        let (q, k, v) = ([0, 2, 1, 3, 4, 6, 5, 7], [8, 10, 9, 11], [12, 13, 14, 15]);
        let gate_up = format!("h.{i}.mlp.gate_up.weight");
        for (name, values) in [
            ("attn_q.weight", rows(&qkv, 8, &q)),
            ("attn_q.bias", rows(&bias, 1, &q)),
            ("attn_k.weight", rows(&qkv, 8, &k)),
            ("attn_k.bias", rows(&bias, 1, &k)),
            ("attn_v.weight", rows(&qkv, 8, &v)),
            ("attn_v.bias", rows(&bias, 1, &v)),
            ("attn_output.bias", ours[&format!("h.{i}.attn.proj.bias")].clone()),
            ("ffn_gate.weight", rows(&gate_up, 8, &(0..12).collect::<Vec<_>>())),
            ("ffn_up.weight", rows(&gate_up, 8, &(12..24).collect::<Vec<_>>())),
            ("ffn_up.bias", ours[&format!("h.{i}.mlp.gate_up.bias")][12..].to_vec()),
            ("ffn_down.weight", ours[&format!("h.{i}.mlp.down.weight")].clone()),
            ("attn_norm.weight", ours[&format!("h.{i}.norm_1.weight")].clone()),
            ("ffn_norm.weight", ours[&format!("h.{i}.norm_2.weight")].clone()),
        ] {
            assert_eq!(tensors[&format!("blk.{i}.{name}")].1, values, "{i} {name}");
        }
        assert!(!tensors.contains_key(&format!("blk.{i}.attn_norm.bias")));
    }
    let bare = exported(&ModelConfig { bias: false, qkv_bias: false, ..llama() }, F32, None).1;
    assert!(bare.keys().all(|name| !name.ends_with("bias")));
}

#[test]
fn narrow_files_round_matrices_and_nothing_else() {
    // Rows of 64 are two blocks of Q8_0, rows of 40 none.
    let config = ModelConfig { n_embd: 64, head_dim: 32, mlp_dim: 40, ..base() };
    let ours = by_name(&config);
    for (weights, name, tolerance) in [
        (GgufType::Plain(WeightType::F16), "F16", 1.0 / 2048.0),
        (GgufType::Plain(WeightType::Bf16), "BF16", 1.0 / 256.0),
        // Values reach 1, so a step is 1/127 and rounding half of it; the scale's own rounding is of float16.
        (GgufType::Q8_0, "Q8_0", 0.5 / 127.0 + 1.0 / 2048.0),
    ] {
        let (_, tensors) = exported(&config, weights, None);
        for (theirs, own, kind) in [
            ("token_embd.weight", "wte.weight", name),
            ("blk.1.attn_qkv.weight", "h.1.attn.qkv.weight", name),
            ("blk.1.ffn_down.weight", "h.1.mlp.down.weight", if name == "Q8_0" { "F16" } else { name }),
            ("position_embd.weight", "wpe.weight", "F32"),
            ("blk.0.attn_qkv.bias", "h.0.attn.qkv.bias", "F32"),
            ("output_norm.weight", "norm_f.weight", "F32"),
        ] {
            let (_, values, found) = &tensors[theirs];
            assert_eq!(found, kind, "{theirs}");
            let limit = if kind == "F32" { 0.0 } else { tolerance };
            let off = values.iter().zip(&ours[own]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= limit && (limit == 0.0 || off > limit / 50.0), "{name} {theirs}: off by {off:e}");
        }
    }
}

#[test]
fn tokens_types_and_merges_go_along() {
    let gpt2 = Tokenizer::gpt2().unwrap();
    let vocabulary = Vocabulary::from_json(gpt2.json(), Path::new("gpt2"), gpt2.eot()).unwrap();
    let config = ModelConfig { vocab_size: 50_259, ..base() };
    let (meta, _) = exported(&config, F32, Some(&vocabulary));
    assert_eq!(meta["tokenizer.ggml.model"].to_string().unwrap(), "gpt2");
    assert_eq!(meta["tokenizer.ggml.pre"].to_string().unwrap(), "gpt-2");
    let (tokens, merges) = (texts(&meta["tokenizer.ggml.tokens"]), texts(&meta["tokenizer.ggml.merges"]));
    // From OpenAI's encoder.json and vocab.bpe.
    assert_eq!((tokens.len(), merges.len()), (50_259, 50_000));
    assert_eq!((&*tokens[0], &*tokens[262], &*tokens[198]), ("!", "Ġthe", "Ċ"));
    assert_eq!((&*tokens[50_256], &*tokens[50_258]), ("<|endoftext|>", "[PAD50258]"));
    assert_eq!((&*merges[0], &*merges[1], &*merges[3]), ("Ġ t", "Ġ a", "i n"));
    let types: Vec<i32> =
        meta["tokenizer.ggml.token_type"].to_vec().unwrap().iter().map(|kind| kind.to_i32().unwrap()).collect();
    assert_eq!((types[0], types[50_256], types[50_257]), (1, 3, 5));
    for key in ["bos", "eos"] {
        assert_eq!(meta[&format!("tokenizer.ggml.{key}_token_id")].to_u32().unwrap(), 50_256);
    }
    assert!(!meta["tokenizer.ggml.add_bos_token"].to_bool().unwrap());

    let bytes = Tokenizer::bytes();
    let vocabulary = Vocabulary::from_json(bytes.json(), Path::new("bytes"), bytes.eot()).unwrap();
    assert_eq!(vocabulary.len(), 257);
    let error = write_gguf(Path::new("unused"), "x", &base(), &params_of(&base()), F32, Some(&vocabulary)).unwrap_err();
    assert!(error.to_string().contains("257 ids, and the model's vocabulary only 11"), "{error}");
}

#[test]
fn tokenizers_that_llama_cpp_lacks_are_refused_with_the_reason() {
    let told = |json: &str| Vocabulary::from_json(json, Path::new("t.json"), None).unwrap_err().to_string();
    let chars = Tokenizer::chars(["abc"].into_iter(), true).unwrap();
    assert!(told(chars.json()).contains("takes each character for a token"), "{}", told(chars.json()));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
    let file = |pre: serde_json::Value, model: serde_json::Value| {
        json!({"pre_tokenizer": pre, "normalizer": null, "added_tokens": [], "model": model}).to_string()
    };
    let model = json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]});
    assert!(Vocabulary::from_json(&file(byte_level.clone(), model.clone()), Path::new("t"), None).is_ok());
    let digits = json!({"type": "Digits", "individual_digits": true});
    let smollm = json!({"type": "Sequence", "pretokenizers": [digits, byte_level]});
    assert!(Vocabulary::from_json(&file(smollm, model.clone()), Path::new("t"), None).is_ok());
    let other = json!({"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated"});
    assert!(told(&file(other, model.clone())).contains("another pattern than GPT-2's"));
    assert!(told(&file(byte_level.clone(), json!({"type": "Unigram"}))).contains("Unigram"));
    let hole = json!({"type": "BPE", "vocab": {"a": 0, "b": 9}, "merges": []});
    assert!(told(&file(byte_level.clone(), hole)).contains("\"b\" no id, or one beyond its 2 entries"));
    let twice = json!({"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []});
    assert!(told(&file(byte_level, twice)).contains("gives id 0 to"));
    assert!(told("{").contains("not valid JSON"));
}

#[test]
fn shapes_that_llama_cpp_lacks_are_refused() {
    let told = |config: ModelConfig| {
        write_gguf(Path::new("unused"), "x", &config, &params_of(&config), F32, None).unwrap_err().to_string()
    };
    assert!(told(ModelConfig { mlp: Mlp::GeluErf, ..base() }).contains("tanh GELU only"));
    assert!(told(ModelConfig { position: Position::None, ..base() }).contains("position = \"none\""));
}

/// An llm.c file, from its description: 256 int32, then GPT-2's tensors kind by kind, `put` writing each value.
fn llmc_file(version: i32, config: &ModelConfig, padded: usize, put: impl Fn(f32) -> Vec<u8>) -> Vec<u8> {
    let mut header = vec![0i32; 256];
    let ModelConfig { context_length: t, vocab_size: v, n_layer: l, n_head: h, n_embd: c, .. } = *config;
    for (slot, value) in [(2, t), (3, v), (4, l), (5, h), (6, c), (7, padded)] {
        header[slot] = value as i32;
    }
    (header[0], header[1]) = (20_240_326, version);
    let mut bytes: Vec<u8> = header.iter().flat_map(|int| int.to_le_bytes()).collect();
    let params = by_name(config);
    let mut append = |values: &[f32]| bytes.extend(values.iter().flat_map(|&value| put(value)));
    append(&params["wte.weight"]);
    append(&vec![0.0; (padded - v) * c]);
    append(&params["wpe.weight"]);
    let kinds = "norm_1 attn.qkv attn.proj norm_2 mlp.up mlp.down";
    for kind in kinds.split(' ') {
        for part in ["weight", "bias"] {
            (0..l).for_each(|layer| append(&params[&format!("h.{layer}.{kind}.{part}")]));
        }
    }
    append(&params["norm_f.weight"]);
    append(&params["norm_f.bias"]);
    bytes
}

#[test]
fn llm_c_files_are_read() {
    let config = ModelConfig { mlp_dim: 32, rope_theta: 10000.0, ..base() };
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("gpt2.bin");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        read_llmc(&path)
    };
    let whole = llmc_file(3, &config, 16, |x| x.to_le_bytes().to_vec());
    let found = read(&whole).unwrap();
    assert_eq!(found, ModelFolder { config: config.clone(), params: params_of(&config), eos: None, notes: vec![] });
    let narrow = read(&llmc_file(5, &config, 11, |x| half::bf16::from_f32(x).to_le_bytes().to_vec())).unwrap();
    for ((name, _, got), (_, _, old)) in narrow.params.iter().zip(params_of(&config)) {
        let rounded: Vec<f32> = old.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
        assert_eq!(*got, rounded, "{name}");
    }
    // What is wrong is said, and nothing panics: cut anywhere, lengthened, or with any header number changed.
    for length in [0, 3, 1023, 1024, whole.len() - 1] {
        assert!(read(&whole[..length]).is_err(), "{length}");
    }
    assert!(read(&whole[..2000]).unwrap_err().to_string().contains("truncated"));
    assert!(read(&[whole.clone(), vec![0]].concat()).is_err());
    for (slot, value, expected) in [
        (0, 20_240_327, "debugging state"),
        (0, 20_240_520, "of another kind"),
        (1, 2, "version 2"),
        (2, 0, "context length is 0"),
        (3, -1, "vocabulary is -1"),
        (4, i32::MAX, "number of layers"),
        (4, 4097, "which no model can be"),
        (5, 3, "which no model can be"),
        (6, 16, "truncated"),
        (7, 10, "which no model can be"),
        (7, 1 << 24, "truncated"),
    ] {
        let mut bytes = whole.clone();
        bytes[4 * slot..][..4].copy_from_slice(&i32::to_le_bytes(value));
        let error = read(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "slot {slot} = {value}: {error}");
    }
}

#[test]
fn shards_tile_the_model_and_the_index_says_so() {
    let (config, dir) = (llama(), TempDir::new().unwrap());
    let packing = Packing { weights: WeightType::Bf16, shard_bytes: Some(500) };
    let files = write_model_folder_as(dir.path(), &config, &params_of(&config), Some(3), packing).unwrap();
    assert!(files.len() > 2 && !dir.path().join("model.safetensors").exists());
    let index = json_of(&dir.path().join("model.safetensors.index.json"));
    let (mut total, mut names) = (0, 0);
    for (i, file) in files.iter().enumerate() {
        assert_eq!(file.name, format!("model-{:05}-of-{:05}.safetensors", i + 1, files.len()));
        let tensors = raw(&dir.path().join(&file.name));
        let bytes: usize = tensors.values().map(|(_, _, data)| data.len()).sum();
        assert!(bytes <= 500 || tensors.len() == 1, "{bytes}");
        for (name, (dtype, _, _)) in &tensors {
            assert_eq!(*dtype, Dtype::BF16);
            assert_eq!(index["weight_map"][name], file.name.as_str());
        }
        (total, names) = (total + bytes, names + tensors.len());
    }
    assert_eq!(index["metadata"]["total_size"], total);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), names);
    assert_eq!(json_of(&dir.path().join("config.json"))["dtype"], "bfloat16");
    assert_eq!(read_model_folder(dir.path()).unwrap().config, config);
}

#[test]
fn float16_refuses_what_it_cannot_hold() {
    let (config, dir) = (base(), TempDir::new().unwrap());
    let mut params = params_of(&config);
    params[3].2[0] = 70_000.0;
    let packing = Packing { weights: WeightType::F16, shard_bytes: None };
    let error = write_model_folder_as(dir.path(), &config, &params, None, packing).unwrap_err();
    assert!(error.to_string().contains("70000, and float16 ends at 65504"), "{error}");
    let error = write_gguf(
        &dir.path().join("x"),
        "x",
        &config,
        &{
            let mut params = params_of(&config);
            params[0].2[0] = -70_000.0;
            params
        },
        GgufType::Plain(WeightType::F16),
        None,
    );
    assert!(error.unwrap_err().to_string().contains("token_embd.weight holds -70000"));
}

fn folder_of(config: &ModelConfig) -> ModelFolder {
    ModelFolder { config: config.clone(), params: params_of(config), eos: Some(9), notes: vec![] }
}

#[test]
fn a_vocabulary_is_cropped_and_never_below_what_is_used() {
    let config = ModelConfig { tie_embeddings: false, ..base() };
    let mut model = folder_of(&config);
    crop_vocabulary(&mut model, 10, Some(10)).unwrap();
    let (small, old) = (ModelConfig { vocab_size: 10, ..config.clone() }, by_name(&config));
    assert_eq!(model.config, small);
    for (name, shape, values) in &model.params {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let cropped = ["wte.weight", "lm_head.weight"].contains(&name.as_str());
        assert_eq!(values[..], old[name][..if cropped { 80 } else { old[name].len() }], "{name}");
    }
    for (size, used, expected) in
        [(12, None, "has 11 rows"), (0, None, "has 11 rows"), (10, Some(11), "give at least 11"), (9, None, "id 9")]
    {
        let error = crop_vocabulary(&mut folder_of(&config), size, used).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn biases_come_and_go_where_that_changes_nothing() {
    let bare = ModelConfig { bias: false, qkv_bias: false, ..base() };
    let mut model = folder_of(&bare);
    change_biases(&mut model, Biases::Keep);
    assert_eq!(model, folder_of(&bare));
    change_biases(&mut model, Biases::Add);
    assert_eq!(model.config, base());
    let added: Vec<_> = model.params.iter().filter(|(name, _, _)| name.ends_with("bias")).collect();
    assert!(added.len() == 13 && added.iter().all(|(_, _, values)| values.iter().all(|&v| v == 0.0)));
    change_biases(&mut model, Biases::DropIfZero);
    assert_eq!(model, folder_of(&bare));
    // One that is not zero keeps those of its kind, and is named.
    change_biases(&mut model, Biases::Add);
    let at = model.params.iter().position(|(name, _, _)| name == "h.1.mlp.up.bias").unwrap();
    model.params[at].2[3] = 0.25;
    change_biases(&mut model, Biases::DropIfZero);
    assert_eq!(model.config, ModelConfig { qkv_bias: false, ..base() });
    assert_eq!(model.notes, ["h.1.mlp.up.bias is not zero, so biases of its kind stay"]);
}

/// The commands, on a folder with a tokenizer: files appear, nothing is overwritten, and what is wrong is said.
#[test]
fn the_commands_write_files_and_folders() {
    let config = ModelConfig { vocab_size: 260, ..base() };
    let (dir, _) = written(&config, Some(256));
    Tokenizer::bytes().save(dir.path(), config.context_length).unwrap();
    std::fs::write(dir.path().join("README.md"), "a card").unwrap();
    let taper = |args: &[&str]| {
        let (code, _, said) = told(taper(".").arg("model").args(args));
        (code, said)
    };
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let model = dir.path().to_string_lossy().into_owned();
    let (gguf, half) = (at("out/m.gguf"), at("out/half"));
    let (code, said) = taper(&["export", &model, "--format", "gguf", "--dtype", "f16", "--out", &gguf]);
    assert_eq!(code, 0, "{said}");
    let content = Content::read(&mut std::fs::File::open(&gguf).unwrap()).unwrap();
    assert_eq!(texts(&content.metadata["tokenizer.ggml.tokens"]).len(), 260);
    assert_eq!(content.metadata["general.name"].to_string().unwrap(), "m");
    let (code, said) = taper(&["export", &model, "--format", "gguf", "--out", &gguf]);
    assert!(code == 2 && said.contains("exists already"), "{said}");

    let options = ["--dtype", "fp16", "--shard-size", "1KB", "--vocab-size", "257", "--out", &half];
    let (code, said) = taper(&[&["convert", &*model][..], &options].concat());
    assert_eq!(code, 0, "{said}");
    let found = read_model_folder(Path::new(&half)).unwrap();
    assert_eq!((found.config.vocab_size, found.eos), (257, Some(256)));
    assert_eq!(std::fs::read_to_string(format!("{half}/README.md")).unwrap(), "a card");
    assert_eq!(Tokenizer::from_file(Path::new(&half)).unwrap().kind(), "bytes");
    let (code, said) = taper(&["convert", &model, "--vocab-size", "100", "--out", &at("no")]);
    assert!(code == 2 && said.contains("give at least 257") && !dir.path().join("no").exists(), "{said}");

    let bin = llmc_file(3, &ModelConfig { mlp_dim: 32, ..base() }, 16, |x| x.to_le_bytes().to_vec());
    std::fs::write(dir.path().join("m.bin"), bin).unwrap();
    let (code, said) = taper(&["convert", &at("m.bin"), "--out", &at("from_llmc")]);
    assert!(code == 0 && said.contains("no tokenizer"), "{said}");
    assert_eq!(read_model_folder(&dir.path().join("from_llmc")).unwrap().config.mlp_dim, 32);
    let left = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".taper"));
    assert_eq!(left.count(), 0);
}
