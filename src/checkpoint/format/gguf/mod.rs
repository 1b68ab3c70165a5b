//! GGUF, the file of llama.cpp: a model with its tokenizer in one piece.
//!
//! Two of llama.cpp's architectures fit ours: `gpt2` and `llama`. Tensors come straight from our parameters, which stand as
//! `[out, in]` as ggml wants them. One trap: llama.cpp rotates *neighbouring* elements of a query or key (the original
//! RoPE of Su et al. 2021), while ours and transformers' rotate the two halves of a head, so the rows of the two projections
//! are interleaved, head by head. Written wrongly the model still speaks, only worse.
//!
//! As llama.cpp's own converter does, norms, biases and learned positions stay float32 whatever the type of the rest.

pub(in crate::checkpoint) mod file;
pub(in crate::checkpoint) mod tensor;
mod vocabulary;

pub use vocabulary::Vocabulary;

use crate::arch::config::ModelConfig;
use crate::arch::layout::parameter_shapes;
use crate::checkpoint::family::FAMILIES;
use crate::checkpoint::kind::FolderKind;
use crate::checkpoint::weight_type::WeightType;
use crate::checkpoint::write::ParamSource;
use crate::error::{Error, Result};
use file::{Info, Meta, Writer};
use half::f16;
use std::collections::BTreeMap;
use std::path::Path;
use tensor::{GgufFacts, Tensor};

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
    let facts = facts(config)?;
    let mut notes = Vec::new();
    let mut metadata = model_metadata(facts, name, config, weights);
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
    let tensors = (facts.tensors)(config);
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

/// What the family of a shape says of llama.cpp.
fn facts(config: &ModelConfig) -> Result<&'static GgufFacts> {
    match FolderKind::of(config) {
        FolderKind::Family(family) => match (family.gguf.obstacle)(config) {
            Some(obstacle) => Err(Error::usage(obstacle)),
            None => Ok(&family.gguf),
        },
        FolderKind::Own { reasons } => Err(Error::usage(format!(
            "llama.cpp has no architecture of this shape, which is neither {}'s: {}",
            FAMILIES.map(|family| family.name).join("'s nor "),
            reasons.join("; ")
        ))),
    }
}

fn model_metadata(facts: &GgufFacts, name: &str, config: &ModelConfig, weights: GgufType) -> Vec<(String, Meta)> {
    let arch = facts.architecture;
    let text = |key: &str, value: &str| (key.to_string(), Meta::Text(value.to_string()));
    let size = |key: &str, value: usize| (format!("{arch}.{key}"), Meta::U32(value as u32));
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
    list.extend((facts.metadata)(config).into_iter().map(|(key, value)| (format!("{arch}.{key}"), value)));
    list
}
