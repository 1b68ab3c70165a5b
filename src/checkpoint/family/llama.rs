//! `LlamaForCausalLM`: the keys of its config.json and the table of its tensors.
//!
//! Linear weights stand as `[out, in]` like ours; query, key and value, and gate and up, are separate tensors where ours are
//! packed. Its two bias switches cut otherwise than ours: `attention_bias` covers the output projection too, `mlp_bias` the
//! feed-forward layer. What a switch brings and our model has not is written as zeros. Rope is rotate-half in both.

use super::facts::Family;
use crate::arch::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use crate::arch::lora::{LoraModules, Module, Place};
use crate::checkpoint::format::gguf::file::Meta;
use crate::checkpoint::format::gguf::tensor::{GgufFacts, Tensor};
use crate::checkpoint::hf_config::HfConfig;
use crate::checkpoint::table::HfTensor;
use crate::error::Result;
use serde_json::{Value, json};

/// The rotary base where none is given (Su et al. 2021, and transformers).
pub(in crate::checkpoint) const DEFAULT_THETA: f64 = 10000.0;

/// Llama.
pub(in crate::checkpoint) static FAMILY: Family = Family {
    name: "Llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    prefix: "model.",
    // Rotary tables.
    constants: &[".rotary_emb.inv_freq"],
    parse,
    keys,
    obstacles,
    table,
    modules: &MODULES,
    gguf: GgufFacts { architecture: "llama", obstacle: |_| None, metadata: gguf_metadata, tensors: gguf_tensors },
};

/// What the linear layers of a block are called.
static MODULES: LoraModules = LoraModules {
    blocks: "model.layers",
    modules: &[
        Module::of("self_attn", "q_proj", Place::Qkv, Some(0)),
        Module::of("self_attn", "k_proj", Place::Qkv, Some(1)),
        Module::of("self_attn", "v_proj", Place::Qkv, Some(2)),
        Module::of("self_attn", "o_proj", Place::Proj, None),
        Module::of("mlp", "gate_proj", Place::Up, Some(0)),
        Module::of("mlp", "up_proj", Place::Up, Some(1)),
        Module::of("mlp", "down_proj", Place::Down, None),
    ],
    fan_in_fan_out: false,
};

/// Which biases the file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Biases {
    attention: bool,
    mlp: bool,
}

impl Biases {
    /// The fewest that hold all of ours.
    fn of(config: &ModelConfig) -> Biases {
        Biases { attention: config.qkv_bias || config.bias, mlp: config.bias }
    }

    /// As config.json says.
    fn parse(hf: &HfConfig) -> Result<Biases> {
        Ok(Biases { attention: hf.switch("attention_bias", false)?, mlp: hf.switch("mlp_bias", false)? })
    }
}

/// The options of a shape that Llama cannot express.
fn obstacles(config: &ModelConfig) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |obstacle: bool, sentence: String| {
        if obstacle {
            found.push(sentence);
        }
    };
    add(config.norm != Norm::Rmsnorm, "norm = \"layernorm\" (Llama has rmsnorm)".into());
    add(config.norm_position != NormPosition::Pre, "norm_position = \"post\" (Llama has pre)".into());
    match config.position {
        Position::Rope => {}
        Position::Learned => add(true, "position = \"learned\" (Llama has rope)".into()),
        Position::None => add(true, "position = \"none\" (Llama has rope)".into()),
    }
    add(config.mlp != Mlp::Swiglu, "an mlp other than \"swiglu\" (Llama has only that)".into());
    add(
        !config.n_embd.is_multiple_of(config.n_head.max(1)),
        format!("n_head = {} does not divide n_embd = {} (Llama wants that)", config.n_head, config.n_embd),
    );
    found
}

/// The keys of config.json for a shape without [`obstacles`], but for "dtype".
fn keys(config: &ModelConfig, eos: Option<u32>) -> Value {
    let biases = Biases::of(config);
    json!({
        "architectures": [FAMILY.class],
        "model_type": FAMILY.model_type,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.n_embd,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        // transformers 5 reads the first, transformers 4 only the second.
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "rope_theta": config.rope_theta,
        "attention_bias": biases.attention,
        "mlp_bias": biases.mlp,
        "attention_dropout": config.dropout,
        "initializer_range": 0.02,
        "bos_token_id": eos,
        "eos_token_id": eos,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": true,
    })
}

/// The shape that a config.json of type llama describes.
///
/// # Errors
/// `Data` naming the key for what our GPT has not: other activations, scaled or partial rotary embeddings.
fn parse(hf: &HfConfig) -> Result<ModelConfig> {
    let (n_embd, n_head) = (hf.size("hidden_size")?, hf.size("num_attention_heads")?);
    let activation = hf.text("hidden_act", "silu")?;
    if !["silu", "swish"].contains(&activation) {
        return Err(hf.error(format!("\"hidden_act\" is \"{activation}\", and taper's swiglu knows only silu")));
    }
    let head_dim = match hf.size_or("head_dim")? {
        Some(head_dim) => head_dim,
        None if n_head > 0 && n_embd.is_multiple_of(n_head) => n_embd / n_head,
        None => {
            return Err(
                hf.error(format!("\"num_attention_heads\" = {n_head} does not divide \"hidden_size\" = {n_embd}"))
            );
        }
    };
    let biases = Biases::parse(hf)?;
    Ok(ModelConfig {
        n_layer: hf.size("num_hidden_layers")?,
        n_head,
        n_kv_head: hf.size_or("num_key_value_heads")?.unwrap_or(n_head),
        head_dim,
        n_embd,
        mlp_dim: hf.size("intermediate_size")?,
        context_length: hf.size("max_position_embeddings")?,
        vocab_size: hf.size("vocab_size")?,
        norm: Norm::Rmsnorm,
        norm_position: NormPosition::Pre,
        norm_eps: hf.number("rms_norm_eps", 1e-6)?,
        position: Position::Rope,
        rope_theta: rope_theta(hf)?,
        mlp: Mlp::Swiglu,
        qkv_bias: biases.attention,
        bias: biases.attention || biases.mlp,
        tie_embeddings: hf.switch("tie_word_embeddings", false)?,
        dropout: hf.number("attention_dropout", 0.0)?,
    })
}

/// The rotary base, from `rope_parameters` (transformers 5) or `rope_theta` (transformers 4), refusing every scaling.
fn rope_theta(hf: &HfConfig) -> Result<f64> {
    let mut theta = hf.number("rope_theta", DEFAULT_THETA)?;
    for key in ["rope_parameters", "rope_scaling"] {
        let Some(value) = hf.get(key) else { continue };
        let Some(parameters) = value.as_object() else {
            return Err(hf.error(format!("\"{key}\" is {value}, not an object")));
        };
        let kind = parameters.get("rope_type").or_else(|| parameters.get("type"));
        if let Some(kind) = kind.filter(|kind| !kind.is_null() && kind.as_str() != Some("default")) {
            return Err(hf.error(format!(
                "\"{key}\" asks for rotary embeddings of type {kind}, and taper has only \"default\" (no scaling)"
            )));
        }
        if let Some(given) = parameters.get("rope_theta").filter(|given| !given.is_null()) {
            theta = given.as_f64().ok_or_else(|| hf.error(format!("\"rope_theta\" is {given}, not a number")))?;
        }
        if let Some(part) = parameters.get("partial_rotary_factor").filter(|part| part.as_f64() != Some(1.0)) {
            return Err(hf.error(format!("\"partial_rotary_factor\" is {part}, and taper turns whole heads")));
        }
    }
    Ok(theta)
}

/// The tensors of the file, with the biases that its config.json says it has.
fn table(config: &ModelConfig, written: Option<&HfConfig>) -> Result<Vec<HfTensor>> {
    let biases = written.map_or(Ok(Biases::of(config)), Biases::parse)?;
    let (c, m, v) = (config.n_embd, config.mlp_dim, config.vocab_size);
    let (q_rows, kv_rows) = (config.attn_dim(), config.n_kv_head * config.head_dim);
    let mut list = vec![HfTensor::whole("model.embed_tokens.weight", "wte.weight", &[v, c])];
    for i in 0..config.n_layer {
        // (their name, ours, first row, rows, columns, bias in the file, bias in our model)
        let attention = (biases.attention, config.qkv_bias);
        let linears = [
            ("self_attn.q_proj", "attn.qkv", 0, q_rows, c, attention),
            ("self_attn.k_proj", "attn.qkv", q_rows, kv_rows, c, attention),
            ("self_attn.v_proj", "attn.qkv", q_rows + kv_rows, kv_rows, c, attention),
            ("self_attn.o_proj", "attn.proj", 0, c, q_rows, (biases.attention, config.bias)),
            ("mlp.gate_proj", "mlp.gate_up", 0, m, c, (biases.mlp, config.bias)),
            ("mlp.up_proj", "mlp.gate_up", m, m, c, (biases.mlp, config.bias)),
            ("mlp.down_proj", "mlp.down", 0, c, m, (biases.mlp, config.bias)),
        ];
        for (theirs, ours) in [("input_layernorm", "norm_1"), ("post_attention_layernorm", "norm_2")] {
            list.push(HfTensor::whole(
                format!("model.layers.{i}.{theirs}.weight"),
                format!("h.{i}.{ours}.weight"),
                &[c],
            ));
        }
        for (theirs, ours, start, rows, columns, (in_file, in_model)) in linears {
            let theirs = format!("model.layers.{i}.{theirs}");
            let ours = format!("h.{i}.{ours}");
            list.push(HfTensor::rows(format!("{theirs}.weight"), format!("{ours}.weight"), start, &[rows, columns]));
            if in_file {
                list.push(match in_model {
                    true => HfTensor::rows(format!("{theirs}.bias"), format!("{ours}.bias"), start, &[rows]),
                    false => HfTensor::zeros(format!("{theirs}.bias"), &[rows]),
                });
            }
        }
    }
    list.push(HfTensor::whole("model.norm.weight", "norm_f.weight", &[c]));
    if !config.tie_embeddings {
        list.push(HfTensor::whole("lm_head.weight", "lm_head.weight", &[v, c]));
    }
    Ok(list)
}

fn gguf_metadata(config: &ModelConfig) -> Vec<(&'static str, Meta)> {
    let size = |value: usize| Meta::U32(value as u32);
    vec![
        ("attention.head_count_kv", size(config.n_kv_head)),
        ("attention.key_length", size(config.head_dim)),
        ("attention.value_length", size(config.head_dim)),
        ("rope.dimension_count", size(config.head_dim)),
        ("rope.freq_base", Meta::F32(config.rope_theta as f32)),
        ("attention.layer_norm_rms_epsilon", Meta::F32(config.norm_eps as f32)),
    ]
}

/// The tensors of llama.cpp's file: what our model packs stands apart, and biases are there where it has them.
fn gguf_tensors(config: &ModelConfig) -> Vec<Tensor> {
    let (c, m) = (config.n_embd, config.mlp_dim);
    let (q, kv) = (config.attn_dim(), config.n_kv_head * config.head_dim);
    let mut list = vec![Tensor::matrix("token_embd.weight", "wte.weight", 0, config.vocab_size, c)];
    let norm = |theirs: String, ours: String| {
        Tensor::vector(format!("{theirs}.weight"), Some((format!("{ours}.weight"), 0)), c)
    };
    for i in 0..config.n_layer {
        let (theirs, ours) = (|part: &str| format!("blk.{i}.{part}"), |part: &str| format!("h.{i}.{part}"));
        // Name, our parameter, its first row, rows, columns, heads to interleave, and whether it has a bias.
        let linears = [
            ("attn_q", "attn.qkv", 0, q, c, Some(config.n_head), config.qkv_bias),
            ("attn_k", "attn.qkv", q, kv, c, Some(config.n_kv_head), config.qkv_bias),
            ("attn_v", "attn.qkv", q + kv, kv, c, None, config.qkv_bias),
            ("attn_output", "attn.proj", 0, c, q, None, config.bias),
            ("ffn_gate", "mlp.gate_up", 0, m, c, None, config.bias),
            ("ffn_up", "mlp.gate_up", m, m, c, None, config.bias),
            ("ffn_down", "mlp.down", 0, c, m, None, config.bias),
        ];
        list.push(norm(theirs("attn_norm"), ours("norm_1")));
        list.push(norm(theirs("ffn_norm"), ours("norm_2")));
        for (name, own, start, rows, columns, heads, bias) in linears {
            let (name, own) = (theirs(name), ours(own));
            let weight = Tensor::matrix(format!("{name}.weight"), &format!("{own}.weight"), start, rows, columns);
            list.push(Tensor { heads, ..weight });
            if bias {
                let source = Some((format!("{own}.bias"), start));
                list.push(Tensor { heads, ..Tensor::vector(format!("{name}.bias"), source, rows) });
            }
        }
    }
    list.push(norm("output_norm".into(), "norm_f".into()));
    if !config.tie_embeddings {
        list.push(Tensor::matrix("output.weight", "lm_head.weight", 0, config.vocab_size, c));
    }
    list
}
