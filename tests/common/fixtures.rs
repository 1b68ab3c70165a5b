//! The fixtures of `scripts/make_fixtures.py`, in our parameter names: what transformers and PyTorch say.
//!
//! The translation from Hugging Face names and layouts is written out here by hand, apart from `taper::checkpoint`, so that
//! the two check each other. Use from the root of a test binary with `#[path = "../common/fixtures.rs"] mod fixtures;`.
#![allow(dead_code)] // each test file uses a part of it

use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::PathBuf;
use taper::arch::config::{Mlp, ModelConfig, Norm, NormPosition, Position};

/// The names of all fixtures.
pub const ALL: [&str; 4] = ["gpt2_tiny", "gpt2_erf_untied", "llama_tiny", "llama_tied_bias"];

/// Values in float64 by arena name.
pub type Named = BTreeMap<String, Vec<f64>>;

/// A tiny model and everything that was computed with it.
pub struct Fixture {
    pub config: ModelConfig,
    /// Initial weights (exactly float32).
    pub params: Named,
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// One batch `[b, t]`, its float64 logits, loss and gradients.
    pub b: usize,
    pub t: usize,
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
    pub logits: Vec<f64>,
    pub loss: f64,
    pub grads: Named,
    /// 20 batches `[b, t]` and what AdamW did with them.
    pub train_tokens: Vec<Vec<u32>>,
    pub train_targets: Vec<Vec<u32>>,
    pub losses: Vec<f64>,
    pub grad_norms: Vec<f64>,
    pub weights_after: Named,
    /// lr, beta1, beta2, eps, weight_decay, clip_norm.
    pub optimizer: BTreeMap<String, f64>,
    /// How far torch's float32 is from these float64 numbers.
    pub float32_error: serde_json::Value,
}

/// The folder of a fixture.
pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

impl Fixture {
    pub fn load(name: &str) -> Fixture {
        let read = |file: &str| std::fs::read(folder(name).join(file)).unwrap();
        let hf: serde_json::Value = serde_json::from_slice(&read("config.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&read("expected.json")).unwrap();
        let config = config_of(&hf);
        let (model, table) = (read("model.safetensors"), read("expected.safetensors"));
        let model = SafeTensors::deserialize(&model).unwrap();
        let table = SafeTensors::deserialize(&table).unwrap();
        let ids = |name: &str| -> Vec<u32> { values(&table, name).iter().map(|&x| x as u32).collect() };
        let batches = |name: &str, n: usize| ids(name).chunks(n).map(<[u32]>::to_vec).collect();
        let dims = table.tensor("input_ids").unwrap().shape().to_vec();
        let (b, t) = (dims[0], dims[1]);
        let numbers = |v: &serde_json::Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let train = &expected["train"];
        let optimizer = ["lr", "beta1", "beta2", "eps", "weight_decay", "clip_norm"];
        let (params, shapes) = to_arena(&config, &model, "");
        Fixture {
            params,
            shapes,
            grads: to_arena(&config, &table, "grad.").0,
            weights_after: to_arena(&config, &table, "step20.").0,
            b,
            t,
            tokens: ids("input_ids"),
            targets: ids("targets"),
            logits: values(&table, "logits"),
            loss: expected["loss"].as_f64().unwrap(),
            train_tokens: batches("train.input_ids", b * t),
            train_targets: batches("train.targets", b * t),
            losses: numbers(&train["losses"]),
            grad_norms: numbers(&train["grad_norms"]),
            optimizer: optimizer.iter().map(|k| (k.to_string(), train[k].as_f64().unwrap())).collect(),
            float32_error: expected["float32_error"].clone(),
            config,
        }
    }

    /// The initial weights as float32: (arena name, shape, values).
    pub fn params_f32(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let narrow = |(n, v): (&String, &Vec<f64>)| {
            (n.clone(), self.shapes[n].clone(), v.iter().map(|&x| x as f32).collect::<Vec<f32>>())
        };
        self.params.iter().map(narrow).collect()
    }

    /// The largest of torch's own float32 errors of a kind ("grads", "weights", "losses", "logits", ...).
    pub fn torch_error(&self, kind: &str) -> f64 {
        match &self.float32_error[kind] {
            serde_json::Value::Object(map) => map.values().map(|v| v.as_f64().unwrap()).fold(0.0, f64::max),
            serde_json::Value::Array(list) => list.iter().map(|v| v.as_f64().unwrap()).fold(0.0, f64::max),
            number => number.as_f64().unwrap(),
        }
    }
}

fn config_of(hf: &serde_json::Value) -> ModelConfig {
    let number = |key: &str| hf[key].as_u64().unwrap() as usize;
    let tie = hf["tie_word_embeddings"].as_bool().unwrap();
    if hf["model_type"] == "gpt2" {
        ModelConfig {
            n_layer: number("n_layer"),
            n_head: number("n_head"),
            n_kv_head: number("n_head"),
            head_dim: number("n_embd") / number("n_head"),
            n_embd: number("n_embd"),
            mlp_dim: if hf["n_inner"].is_null() { 4 * number("n_embd") } else { number("n_inner") },
            context_length: number("n_positions"),
            vocab_size: number("vocab_size"),
            norm: Norm::Layernorm,
            norm_position: NormPosition::Pre,
            norm_eps: hf["layer_norm_epsilon"].as_f64().unwrap(),
            position: Position::Learned,
            rope_theta: 10000.0,
            mlp: if hf["activation_function"] == "gelu" { Mlp::GeluErf } else { Mlp::Gelu },
            qkv_bias: true,
            bias: true,
            tie_embeddings: tie,
            dropout: 0.0,
        }
    } else {
        let bias = hf["attention_bias"].as_bool().unwrap();
        assert_eq!(bias, hf["mlp_bias"].as_bool().unwrap());
        ModelConfig {
            n_layer: number("num_hidden_layers"),
            n_head: number("num_attention_heads"),
            n_kv_head: number("num_key_value_heads"),
            head_dim: number("head_dim"),
            n_embd: number("hidden_size"),
            mlp_dim: number("intermediate_size"),
            context_length: number("max_position_embeddings"),
            vocab_size: number("vocab_size"),
            norm: Norm::Rmsnorm,
            norm_position: NormPosition::Pre,
            norm_eps: hf["rms_norm_eps"].as_f64().unwrap(),
            position: Position::Rope,
            rope_theta: hf["rope_parameters"]["rope_theta"].as_f64().unwrap(),
            mlp: Mlp::Swiglu,
            qkv_bias: bias,
            bias,
            tie_embeddings: tie,
            dropout: 0.0,
        }
    }
}

/// A tensor's values, widened.
pub fn values(file: &SafeTensors, name: &str) -> Vec<f64> {
    let view = file.tensor(name).unwrap_or_else(|_| panic!("no tensor {name}"));
    let data = view.data();
    match view.dtype() {
        Dtype::F64 => data.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect(),
        Dtype::F32 => data.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap()) as f64).collect(),
        Dtype::I32 => data.chunks_exact(4).map(|c| i32::from_le_bytes(c.try_into().unwrap()) as f64).collect(),
        other => panic!("{name} has dtype {other:?}"),
    }
}

/// The tensors called `prefix` + a Hugging Face name, in our names and layouts.
fn to_arena(config: &ModelConfig, file: &SafeTensors, prefix: &str) -> (Named, BTreeMap<String, Vec<usize>>) {
    let mut arena = Named::new();
    let mut shapes = BTreeMap::new();
    let gpt2 = config.norm == Norm::Layernorm;
    let get = |name: &str| {
        let name = format!("{prefix}{name}");
        (values(file, &name), file.tensor(&name).unwrap().shape().to_vec())
    };
    let mut put = |name: String, (values, shape): (Vec<f64>, Vec<usize>)| {
        shapes.insert(name.clone(), shape);
        arena.insert(name, values);
    };
    // GPT-2's Conv1D keeps [in, out].
    let transposed = |(values, shape): (Vec<f64>, Vec<usize>)| {
        let (rows, columns) = (shape[0], shape[1]);
        let flipped = (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c))).map(|(r, c)| values[r * columns + c]);
        (flipped.collect(), vec![columns, rows])
    };
    let stacked = |names: &[String]| {
        let mut all = (Vec::new(), vec![0]);
        for name in names {
            let (values, shape) = get(name);
            all.0.extend(values);
            all.1 = [vec![all.1[0] + shape[0]], shape[1..].to_vec()].concat();
        }
        all
    };
    if gpt2 {
        put("wte.weight".into(), get("transformer.wte.weight"));
        put("wpe.weight".into(), get("transformer.wpe.weight"));
        for i in 0..config.n_layer {
            let hf = format!("transformer.h.{i}");
            let pairs = [
                ("attn.qkv", "attn.c_attn"),
                ("attn.proj", "attn.c_proj"),
                ("mlp.up", "mlp.c_fc"),
                ("mlp.down", "mlp.c_proj"),
            ];
            for (ours, theirs) in pairs {
                put(format!("h.{i}.{ours}.weight"), transposed(get(&format!("{hf}.{theirs}.weight"))));
                put(format!("h.{i}.{ours}.bias"), get(&format!("{hf}.{theirs}.bias")));
            }
            for kind in ["weight", "bias"] {
                put(format!("h.{i}.norm_1.{kind}"), get(&format!("{hf}.ln_1.{kind}")));
                put(format!("h.{i}.norm_2.{kind}"), get(&format!("{hf}.ln_2.{kind}")));
            }
        }
        put("norm_f.weight".into(), get("transformer.ln_f.weight"));
        put("norm_f.bias".into(), get("transformer.ln_f.bias"));
    } else {
        put("wte.weight".into(), get("model.embed_tokens.weight"));
        for i in 0..config.n_layer {
            let hf = format!("model.layers.{i}");
            let kinds: &[&str] = if config.bias { &["weight", "bias"] } else { &["weight"] };
            for kind in kinds {
                let attention = ["q", "k", "v"].map(|p| format!("{hf}.self_attn.{p}_proj.{kind}"));
                put(format!("h.{i}.attn.qkv.{kind}"), stacked(&attention));
                put(format!("h.{i}.attn.proj.{kind}"), get(&format!("{hf}.self_attn.o_proj.{kind}")));
                let gate_up = ["gate", "up"].map(|p| format!("{hf}.mlp.{p}_proj.{kind}"));
                put(format!("h.{i}.mlp.gate_up.{kind}"), stacked(&gate_up));
                put(format!("h.{i}.mlp.down.{kind}"), get(&format!("{hf}.mlp.down_proj.{kind}")));
            }
            put(format!("h.{i}.norm_1.weight"), get(&format!("{hf}.input_layernorm.weight")));
            put(format!("h.{i}.norm_2.weight"), get(&format!("{hf}.post_attention_layernorm.weight")));
        }
        put("norm_f.weight".into(), get("model.norm.weight"));
    }
    if !config.tie_embeddings {
        put("lm_head.weight".into(), get("lm_head.weight"));
    }
    (arena, shapes)
}
