//! GGUF, the file of llama.cpp: a model with its tokenizer in one piece.
//!
//! Two of llama.cpp's architectures fit ours: `gpt2` and `llama`. Tensors come straight from our parameters, which stand as
//! `[out, in]` as ggml wants them. One trap: llama.cpp rotates *neighbouring* elements of a query or key (the original
//! RoPE of Su et al. 2021), while ours and transformers' rotate the two halves of a head, so the rows of the two projections
//! are interleaved, head by head. Written wrongly the model still speaks, only worse.
//!
//! As llama.cpp's own converter does, norms, biases and learned positions stay float32 whatever the type of the rest.

mod file;
mod vocabulary;

pub use vocabulary::Vocabulary;

use crate::arch::config::{Mlp, ModelConfig, Position};
use crate::arch::layout::parameter_shapes;
use crate::checkpoint::write::ParamSource;
use crate::checkpoint::{Layout, WeightType};
use crate::error::{Error, Result};
use file::{Info, Meta, Writer};
use half::f16;
use std::collections::BTreeMap;
use std::path::Path;

/// Values in a block of Q8_0.
const BLOCK: usize = 32;

/// How matrices stand in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// As they were, or bfloat16, or float16.
    Plain(WeightType),
    /// Blocks of 32 signed bytes with a float16 scale.
    Q8_0,
}

impl GgufType {
    /// ggml's number of the type.
    fn number(self) -> u32 {
        match self {
            GgufType::Plain(WeightType::F32) => 0,
            GgufType::Plain(WeightType::F16) => 1,
            GgufType::Plain(WeightType::Bf16) => 30,
            GgufType::Q8_0 => 8,
        }
    }

    /// llama.cpp's number of a file that is mostly of this type.
    fn file_type(self) -> u32 {
        match self {
            GgufType::Plain(WeightType::F32) => 0,
            GgufType::Plain(WeightType::F16) => 1,
            GgufType::Plain(WeightType::Bf16) => 32,
            GgufType::Q8_0 => 7,
        }
    }

    fn bytes(self, elements: usize) -> u64 {
        match self {
            GgufType::Plain(weights) => (elements * weights.size()) as u64,
            GgufType::Q8_0 => (elements / BLOCK * (BLOCK + 2)) as u64,
        }
    }

    fn encode(self, values: &[f32], what: &str, out: &mut Vec<u8>) -> Result<()> {
        match self {
            GgufType::Plain(weights) => weights.encode(values, what, out),
            GgufType::Q8_0 => {
                values.chunks_exact(BLOCK).for_each(|block| quantize(block, out));
                Ok(())
            }
        }
    }
}

/// A block of Q8_0: the largest magnitude becomes 127.
fn quantize(block: &[f32], out: &mut Vec<u8>) {
    let most = block.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let scale = most / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    out.extend(f16::from_f32(scale).to_le_bytes());
    out.extend(block.iter().map(|value| ((value * inverse).round() as i8).to_le_bytes()[0]));
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufWritten {
    /// Length of the file.
    pub bytes: u64,
    /// Number of tensors.
    pub tensors: usize,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// One tensor of the file and where its values are among our parameters.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    /// The parameter, and the first of its rows; `None` where all is zero.
    source: Option<(String, usize)>,
    /// Heads whose rows are interleaved, where they are.
    heads: Option<usize>,
    /// Whether it stays float32.
    exact: bool,
}

/// Writes `path`. `name` is what the model is called; without a vocabulary the file takes and gives token ids only.
///
/// # Errors
/// `Usage` for a shape that llama.cpp does not compute, a vocabulary larger than the model's, or a value beyond float16;
/// `Io`.
pub fn write_gguf(
    path: &Path,
    name: &str,
    config: &ModelConfig,
    params: &dyn ParamSource,
    weights: GgufType,
    vocabulary: Option<&Vocabulary>,
) -> Result<GgufWritten> {
    let arch = architecture(config)?;
    let mut notes = Vec::new();
    let mut metadata = model_metadata(arch, name, config, weights);
    match vocabulary {
        Some(vocabulary) if vocabulary.len() > config.vocab_size => {
            return Err(Error::usage(format!(
                "the tokenizer has {} ids, and the model's vocabulary only {}: it is not this model's tokenizer",
                vocabulary.len(),
                config.vocab_size
            )));
        }
        Some(vocabulary) => {
            if vocabulary.eot().is_none() {
                notes.push("the tokenizer has no end-of-text token; llama.cpp then takes id 11 for it".into());
            }
            metadata.extend(vocabulary.metadata(config.vocab_size));
        }
        None => metadata.push(("tokenizer.ggml.model".into(), Meta::Text("no_vocab".into()))),
    }
    let tensors = if arch == "gpt2" { gpt2_tensors(config) } else { llama_tensors(config) };
    let mut narrow = 0;
    let kinds: Vec<GgufType> = tensors
        .iter()
        .map(|tensor| match weights {
            _ if tensor.exact => GgufType::Plain(WeightType::F32),
            GgufType::Q8_0 if !tensor.shape[1].is_multiple_of(BLOCK) => {
                narrow += 1;
                GgufType::Plain(WeightType::F16)
            }
            other => other,
        })
        .collect();
    if narrow > 0 {
        notes.push(format!(
            "{narrow} matrices have rows that {BLOCK} does not divide; they are float16 instead of Q8_0"
        ));
    }
    let infos: Vec<Info> = tensors
        .iter()
        .zip(&kinds)
        .map(|(tensor, kind)| Info {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            kind: kind.number(),
            bytes: kind.bytes(tensor.shape.iter().product()),
        })
        .collect();
    let mut writer = Writer::create(path, &metadata, &infos)?;
    let shapes: BTreeMap<String, Vec<usize>> = parameter_shapes(config).into_iter().collect();
    for (tensor, kind) in tensors.iter().zip(kinds) {
        let values = values_of(tensor, params, &shapes)?;
        let mut bytes = Vec::new();
        kind.encode(&values, &tensor.name, &mut bytes)?;
        writer.data(&bytes)?;
    }
    Ok(GgufWritten { bytes: writer.finish()?, tensors: tensors.len(), notes })
}

/// The values of a tensor, rows interleaved where llama.cpp wants that.
fn values_of(tensor: &Tensor, params: &dyn ParamSource, shapes: &BTreeMap<String, Vec<usize>>) -> Result<Vec<f32>> {
    let count: usize = tensor.shape.iter().product();
    let Some((parameter, start)) = &tensor.source else { return Ok(vec![0.0; count]) };
    let all = params.values(parameter)?;
    let expected: usize = shapes.get(parameter).map_or(0, |shape| shape.iter().product());
    if all.len() != expected {
        return Err(Error::Training(format!(
            "parameter {parameter} has {} values, and the model's shape asks for {expected}",
            all.len()
        )));
    }
    let columns: usize = tensor.shape[1..].iter().product();
    let values = &all[start * columns..][..count];
    let Some(heads) = tensor.heads else { return Ok(values.to_vec()) };
    let size = tensor.shape[0] / heads;
    let mut out = Vec::with_capacity(count);
    for head in 0..heads {
        for pair in 0..size / 2 {
            for half in 0..2 {
                let row = head * size + half * (size / 2) + pair;
                out.extend_from_slice(&values[row * columns..][..columns]);
            }
        }
    }
    Ok(out)
}

/// llama.cpp's name of the architecture.
fn architecture(config: &ModelConfig) -> Result<&'static str> {
    match Layout::of(config) {
        Layout::Gpt2 if config.mlp == Mlp::Gelu => Ok("gpt2"),
        Layout::Gpt2 => Err(Error::usage(
            "llama.cpp computes GPT-2 with the tanh GELU only (mlp = \"gelu\"), and this model has another activation",
        )),
        Layout::Llama => Ok("llama"),
        Layout::Own { reasons } => Err(Error::usage(format!(
            "llama.cpp has no architecture of this shape, which is neither GPT-2's nor Llama's: {}",
            reasons.join("; ")
        ))),
    }
}

fn model_metadata(arch: &str, name: &str, config: &ModelConfig, weights: GgufType) -> Vec<(String, Meta)> {
    let text = |key: &str, value: &str| (key.to_string(), Meta::Text(value.to_string()));
    let size = |key: &str, value: usize| (format!("{arch}.{key}"), Meta::U32(value as u32));
    let number = |key: &str, value: f64| (format!("{arch}.{key}"), Meta::F32(value as f32));
    let mut list = vec![
        text("general.architecture", arch),
        text("general.type", "model"),
        text("general.name", name),
        ("general.file_type".into(), Meta::U32(weights.file_type())),
        ("general.quantization_version".into(), Meta::U32(2)),
        size("vocab_size", config.vocab_size),
        size("context_length", config.context_length),
        size("embedding_length", config.n_embd),
        size("block_count", config.n_layer),
        size("feed_forward_length", config.mlp_dim),
        size("attention.head_count", config.n_head),
    ];
    if config.position == Position::Rope {
        list.extend([
            size("attention.head_count_kv", config.n_kv_head),
            size("attention.key_length", config.head_dim),
            size("attention.value_length", config.head_dim),
            size("rope.dimension_count", config.head_dim),
            number("rope.freq_base", config.rope_theta),
            number("attention.layer_norm_rms_epsilon", config.norm_eps),
        ]);
    } else {
        list.push(number("attention.layer_norm_epsilon", config.norm_eps));
    }
    list
}

fn matrix(name: impl Into<String>, parameter: &str, start: usize, rows: usize, columns: usize) -> Tensor {
    let source = Some((parameter.to_string(), start));
    Tensor { name: name.into(), shape: vec![rows, columns], source, heads: None, exact: false }
}

fn vector(name: String, source: Option<(String, usize)>, size: usize) -> Tensor {
    Tensor { name, shape: vec![size], source, heads: None, exact: true }
}

/// The tensors of `gpt2`. llama.cpp wants every bias; those that our model has not are zero.
fn gpt2_tensors(config: &ModelConfig) -> Vec<Tensor> {
    let (c, m) = (config.n_embd, config.mlp_dim);
    let mut list = vec![
        matrix("token_embd.weight", "wte.weight", 0, config.vocab_size, c),
        Tensor { exact: true, ..matrix("position_embd.weight", "wpe.weight", 0, config.context_length, c) },
    ];
    let norm = |list: &mut Vec<Tensor>, theirs: &str, ours: &str| {
        list.push(vector(format!("{theirs}.weight"), Some((format!("{ours}.weight"), 0)), c));
        list.push(vector(format!("{theirs}.bias"), config.bias.then(|| (format!("{ours}.bias"), 0)), c));
    };
    for i in 0..config.n_layer {
        let (theirs, ours) = (|part: &str| format!("blk.{i}.{part}"), |part: &str| format!("h.{i}.{part}"));
        let linear = |list: &mut Vec<Tensor>, name: &str, own: &str, rows: usize, columns: usize, bias: bool| {
            let (name, own) = (theirs(name), ours(own));
            list.push(matrix(format!("{name}.weight"), &format!("{own}.weight"), 0, rows, columns));
            list.push(vector(format!("{name}.bias"), bias.then(|| (format!("{own}.bias"), 0)), rows));
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
        list.push(matrix("output.weight", "lm_head.weight", 0, config.vocab_size, c));
    }
    list
}

/// The tensors of `llama`: what our model packs stands apart, and biases are there where it has them.
fn llama_tensors(config: &ModelConfig) -> Vec<Tensor> {
    let (c, m) = (config.n_embd, config.mlp_dim);
    let (q, kv) = (config.attn_dim(), config.n_kv_head * config.head_dim);
    let mut list = vec![matrix("token_embd.weight", "wte.weight", 0, config.vocab_size, c)];
    let norm =
        |theirs: String, ours: String| vector(format!("{theirs}.weight"), Some((format!("{ours}.weight"), 0)), c);
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
            let weight = matrix(format!("{name}.weight"), &format!("{own}.weight"), start, rows, columns);
            list.push(Tensor { heads, ..weight });
            if bias {
                let source = Some((format!("{own}.bias"), start));
                list.push(Tensor { heads, ..vector(format!("{name}.bias"), source, rows) });
            }
        }
    }
    list.push(norm("output_norm".into(), "norm_f".into()));
    if !config.tie_embeddings {
        list.push(matrix("output.weight", "lm_head.weight", 0, config.vocab_size, c));
    }
    list
}
