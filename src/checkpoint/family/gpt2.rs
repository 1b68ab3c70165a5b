//! `GPT2LMHeadModel`: the keys of its config.json and the table of its tensors.
//!
//! Its linear layers are `Conv1D`: weights stand as `[in, out]`, the transpose of ours. The attention projection is square,
//! so a forgotten transpose there is caught by no shape check, only by comparing logits. Every layer has biases; a model of
//! ours without them is written with zeros.

use super::facts::Family;
use crate::arch::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use crate::arch::lora::{LoraModules, Module, Place};
use crate::checkpoint::format::gguf::file::Meta;
use crate::checkpoint::format::gguf::tensor::{GgufFacts, Tensor};
use crate::checkpoint::hf_config::HfConfig;
use crate::checkpoint::table::{HfTensor, Source};
use crate::error::Result;
use serde_json::{Value, json};

/// Names by which transformers knows the two GELUs and the squared ReLU.
const ACTIVATIONS: [(&str, Mlp); 7] = [
    ("gelu_new", Mlp::Gelu),
    ("gelu_pytorch_tanh", Mlp::Gelu),
    ("gelu_python_tanh", Mlp::Gelu),
    ("gelu_fast", Mlp::Gelu),
    ("gelu", Mlp::GeluErf),
    ("gelu_python", Mlp::GeluErf),
    ("relu2", Mlp::Relu2),
];

/// GPT-2.
pub(in crate::checkpoint) static FAMILY: Family = Family {
    name: "GPT-2",
    model_type: "gpt2",
    class: "GPT2LMHeadModel",
    prefix: "transformer.",
    // Causal masks.
    constants: &[".attn.bias", ".attn.masked_bias"],
    parse,
    keys,
    obstacles,
    table,
    modules: &MODULES,
    gguf: GgufFacts {
        architecture: "gpt2",
        obstacle: |config| {
            (config.mlp != Mlp::Gelu).then_some(
                "llama.cpp computes GPT-2 with the tanh GELU only (mlp = \"gelu\"), and this model has another activation",
            )
        },
        metadata: |config| vec![("attention.layer_norm_epsilon", Meta::F32(config.norm_eps as f32))],
        tensors: gguf_tensors,
    },
};

/// What the linear layers of a block are called.
static MODULES: LoraModules = LoraModules {
    blocks: "transformer.h",
    modules: &[
        Module::of("attn", "c_attn", Place::Qkv, None),
        Module::of("attn", "c_proj", Place::Proj, None),
        Module::of("mlp", "c_fc", Place::Up, None),
        Module::of("mlp", "c_proj", Place::Down, None),
    ],
    fan_in_fan_out: true,
};

/// The options of a shape that GPT-2 cannot express.
fn obstacles(config: &ModelConfig) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |obstacle: bool, sentence: String| {
        if obstacle {
            found.push(sentence);
        }
    };
    add(config.norm != Norm::Layernorm, "norm = \"rmsnorm\" (GPT-2 has layernorm)".into());
    add(config.norm_position != NormPosition::Pre, "norm_position = \"post\" (GPT-2 has pre)".into());
    match config.position {
        Position::Learned => {}
        Position::Rope => add(true, "position = \"rope\" (GPT-2 has learned positions)".into()),
        Position::None => add(true, "position = \"none\" (GPT-2 has learned positions)".into()),
    }
    add(config.mlp == Mlp::Swiglu, "mlp = \"swiglu\" (GPT-2 has gelu, gelu_erf or relu2)".into());
    add(
        config.n_kv_head != config.n_head,
        format!("n_kv_head = {} (GPT-2 has one for each of the {} heads)", config.n_kv_head, config.n_head),
    );
    add(config.attn_dim() != config.n_embd, format!("head_dim = {} (GPT-2 has n_embd / n_head)", config.head_dim));
    found
}

/// The keys of config.json for a shape without [`obstacles`], but for "dtype".
fn keys(config: &ModelConfig, eos: Option<u32>) -> Value {
    let activation = match config.mlp {
        Mlp::GeluErf => "gelu",
        Mlp::Relu2 => "relu2",
        // Swiglu is an obstacle and does not come here.
        Mlp::Gelu | Mlp::Swiglu => "gelu_new",
    };
    let n_inner = if config.mlp_dim == 4 * config.n_embd { Value::Null } else { json!(config.mlp_dim) };
    json!({
        "architectures": [FAMILY.class],
        "model_type": FAMILY.model_type,
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": n_inner,
        "activation_function": activation,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": 0.02,
        "bos_token_id": eos,
        "eos_token_id": eos,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": true,
    })
}

/// The shape that a config.json of type gpt2 describes. All biases are there, as in transformers.
///
/// # Errors
/// `Data` naming the key for what our GPT has not: other activations, cross attention, scaling by layer.
fn parse(hf: &HfConfig) -> Result<ModelConfig> {
    let (n_embd, n_head) = (hf.size("n_embd")?, hf.size("n_head")?);
    if n_head == 0 || !n_embd.is_multiple_of(n_head) {
        return Err(hf.error(format!("\"n_head\" = {n_head} does not divide \"n_embd\" = {n_embd}")));
    }
    let activation = hf.text("activation_function", "gelu_new")?;
    let Some((_, mlp)) = ACTIVATIONS.iter().find(|(name, _)| *name == activation) else {
        let known = ACTIVATIONS.map(|(name, _)| name).join(", ");
        return Err(hf.error(format!("\"activation_function\" is \"{activation}\", and taper knows only {known}")));
    };
    for (key, usual) in
        [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false), ("add_cross_attention", false)]
    {
        if hf.switch(key, usual)? != usual {
            return Err(hf.error(format!("\"{key}\" is {}, which taper's attention does not do", !usual)));
        }
    }
    Ok(ModelConfig {
        n_layer: hf.size("n_layer")?,
        n_head,
        n_kv_head: n_head,
        head_dim: n_embd / n_head,
        n_embd,
        mlp_dim: hf.size_or("n_inner")?.unwrap_or(n_embd.saturating_mul(4)),
        context_length: hf.size("n_positions")?,
        vocab_size: hf.size("vocab_size")?,
        norm: Norm::Layernorm,
        norm_position: NormPosition::Pre,
        norm_eps: hf.number("layer_norm_epsilon", 1e-5)?,
        position: Position::Learned,
        rope_theta: super::llama::DEFAULT_THETA,
        mlp: *mlp,
        qkv_bias: true,
        bias: true,
        tie_embeddings: hf.switch("tie_word_embeddings", true)?,
        dropout: hf.number("resid_pdrop", 0.1)?,
    })
}

/// The tensors of the file.
fn table(config: &ModelConfig, _: Option<&HfConfig>) -> Result<Vec<HfTensor>> {
    let (c, m) = (config.n_embd, config.mlp_dim);
    let mut list = vec![
        HfTensor::whole("transformer.wte.weight", "wte.weight", &[config.vocab_size, c]),
        HfTensor::whole("transformer.wpe.weight", "wpe.weight", &[config.context_length, c]),
    ];
    let bias = |list: &mut Vec<HfTensor>, theirs: String, ours: String, rows: usize, present: bool| {
        list.push(match present {
            true => HfTensor::whole(format!("{theirs}.bias"), format!("{ours}.bias"), &[rows]),
            false => HfTensor::zeros(format!("{theirs}.bias"), &[rows]),
        });
    };
    let norm = |list: &mut Vec<HfTensor>, theirs: String, ours: String| {
        list.push(HfTensor::whole(format!("{theirs}.weight"), format!("{ours}.weight"), &[c]));
        bias(list, theirs, ours, c, config.bias);
    };
    let conv = |list: &mut Vec<HfTensor>, theirs: String, ours: String, inputs: usize, outputs: usize, has: bool| {
        let mut tensor = HfTensor::whole(format!("{theirs}.weight"), format!("{ours}.weight"), &[inputs, outputs]);
        if let Source::Rows { transposed, .. } = &mut tensor.source {
            *transposed = true;
        }
        list.push(tensor);
        bias(list, theirs, ours, outputs, has);
    };
    for i in 0..config.n_layer {
        let (theirs, ours) = (|part: &str| format!("transformer.h.{i}.{part}"), |part: &str| format!("h.{i}.{part}"));
        norm(&mut list, theirs("ln_1"), ours("norm_1"));
        conv(&mut list, theirs("attn.c_attn"), ours("attn.qkv"), c, 3 * c, config.qkv_bias);
        conv(&mut list, theirs("attn.c_proj"), ours("attn.proj"), c, c, config.bias);
        norm(&mut list, theirs("ln_2"), ours("norm_2"));
        conv(&mut list, theirs("mlp.c_fc"), ours("mlp.up"), c, m, config.bias);
        conv(&mut list, theirs("mlp.c_proj"), ours("mlp.down"), m, c, config.bias);
    }
    norm(&mut list, "transformer.ln_f".into(), "norm_f".into());
    if !config.tie_embeddings {
        list.push(HfTensor::whole("lm_head.weight", "lm_head.weight", &[config.vocab_size, c]));
    }
    Ok(list)
}

/// The tensors of llama.cpp's file. It wants every bias; those that our model has not are zero.
fn gguf_tensors(config: &ModelConfig) -> Vec<Tensor> {
    let (c, m) = (config.n_embd, config.mlp_dim);
    let mut list = vec![
        Tensor::matrix("token_embd.weight", "wte.weight", 0, config.vocab_size, c),
        Tensor { exact: true, ..Tensor::matrix("position_embd.weight", "wpe.weight", 0, config.context_length, c) },
    ];
    let norm = |list: &mut Vec<Tensor>, theirs: &str, ours: &str| {
        list.push(Tensor::vector(format!("{theirs}.weight"), Some((format!("{ours}.weight"), 0)), c));
        list.push(Tensor::vector(format!("{theirs}.bias"), config.bias.then(|| (format!("{ours}.bias"), 0)), c));
    };
    for i in 0..config.n_layer {
        let (theirs, ours) = (|part: &str| format!("blk.{i}.{part}"), |part: &str| format!("h.{i}.{part}"));
        let linear = |list: &mut Vec<Tensor>, name: &str, own: &str, rows: usize, columns: usize, bias: bool| {
            let (name, own) = (theirs(name), ours(own));
            list.push(Tensor::matrix(format!("{name}.weight"), &format!("{own}.weight"), 0, rows, columns));
            list.push(Tensor::vector(format!("{name}.bias"), bias.then(|| (format!("{own}.bias"), 0)), rows));
        };
        norm(&mut list, &theirs("attn_norm"), &ours("norm_1"));
        linear(&mut list, "attn_qkv", "attn.qkv", 3 * c, c, config.qkv_bias);
        linear(&mut list, "attn_output", "attn.proj", c, c, config.bias);
        norm(&mut list, &theirs("ffn_norm"), &ours("norm_2"));
        linear(&mut list, "ffn_up", "mlp.up", m, c, config.bias);
        linear(&mut list, "ffn_down", "mlp.down", c, m, config.bias);
    }
    norm(&mut list, "output_norm", "norm_f");
    if !config.tie_embeddings {
        list.push(Tensor::matrix("output.weight", "lm_head.weight", 0, config.vocab_size, c));
    }
    list
}
