//! Reading the model files of llm.c (`gpt2_124M.bin`, `model_00019560.bin`).
//!
//! A file is 256 little-endian int32 (magic 20240326, version, context length, vocabulary, layers, heads, width, padded
//! vocabulary) and then GPT-2's parameters, kind by kind: the first norm's weights of all layers, then its biases of all
//! layers, and so on. Weights stand as `[out, in]`, queries, keys and values packed, which is our arena's way too. Version 3
//! is float32, version 5 bfloat16 throughout. The rows that pad the vocabulary are dropped.

use crate::arch::ModelConfig;
use crate::arch::layout::{NamedParam, parameter_shapes};
use crate::checkpoint::folder::ModelFolder;
use crate::error::{Error, Result};
use half::bf16;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

const MAGIC: i32 = 20_240_326;
const HEADER_INTS: usize = 256;
/// Of llm.c's state files (activations and gradients), which are easily taken for models.
const STATE_MAGIC: i32 = 20_240_327;
/// End of text in GPT-2's vocabulary, the only one that llm.c has, and that vocabulary's size.
const GPT2_EOT: u32 = 50_256;
/// Number of ids in GPT-2's vocabulary.
pub const GPT2_VOCABULARY: usize = 50_257;

/// The kinds of parameters in a layer, in the file's order.
const LAYER_KINDS: [&str; 12] = [
    "norm_1.weight",
    "norm_1.bias",
    "attn.qkv.weight",
    "attn.qkv.bias",
    "attn.proj.weight",
    "attn.proj.bias",
    "norm_2.weight",
    "norm_2.bias",
    "mlp.up.weight",
    "mlp.up.bias",
    "mlp.down.weight",
    "mlp.down.bias",
];

/// Reads an llm.c model file.
///
/// # Errors
/// `Io`; `Data` for a file of another kind or version, a shape that cannot be, or a length that does not fit the header.
pub fn read_llmc(path: &Path) -> Result<ModelFolder> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut bytes = [0; 4 * HEADER_INTS];
    if size < bytes.len() as u64 {
        return Err(Error::data(path, format!("has {size} bytes, too few for the header of an llm.c model")));
    }
    reader.read_exact(&mut bytes).map_err(Error::io("read", path))?;
    let (ints, _) = bytes.as_chunks::<4>();
    let header: Vec<i32> = ints.iter().map(|int| i32::from_le_bytes(*int)).collect();
    let (config, padded, value_bytes) = shape(path, &header)?;

    let shapes: BTreeMap<String, Vec<usize>> = parameter_shapes(&config).into_iter().collect();
    let elements = |name: &str| shapes.get(name).map_or(0, |shape| shape.iter().product::<usize>());
    let all: usize = parameter_shapes(&config).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let values = all + (padded - config.vocab_size) * config.n_embd;
    let expected = (bytes.len() + values * value_bytes) as u64;
    if size != expected {
        let cause = if size < expected { "the file is truncated" } else { "it is no plain model file" };
        return Err(Error::data(
            path,
            format!("has {size} bytes, and the model of its header takes {expected}: {cause}"),
        ));
    }
    let mut take = |count: usize| read_values(&mut reader, count, value_bytes).map_err(Error::io("read", path));
    let mut found: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut wte = take(padded * config.n_embd)?;
    let padding = wte.split_off(config.vocab_size * config.n_embd);
    found.insert("wte.weight".into(), wte);
    found.insert("wpe.weight".into(), take(elements("wpe.weight"))?);
    for kind in LAYER_KINDS {
        for layer in 0..config.n_layer {
            let name = format!("h.{layer}.{kind}");
            let values = take(elements(&name))?;
            found.insert(name, values);
        }
    }
    for name in ["norm_f.weight", "norm_f.bias"] {
        found.insert(name.into(), take(elements(name))?);
    }
    let params: Vec<NamedParam> = parameter_shapes(&config)
        .into_iter()
        .map(|(name, shape)| {
            let values = found.remove(&name).unwrap_or_default();
            (name, shape, values)
        })
        .collect();
    let mut notes = Vec::new();
    if padding.iter().any(|&value| value != 0.0) {
        let rows = padded - config.vocab_size;
        notes.push(format!("the {rows} rows that pad the vocabulary are not zero; they are dropped all the same"));
    }
    let eos = (config.vocab_size == GPT2_VOCABULARY).then_some(GPT2_EOT);
    Ok(ModelFolder { config, params, eos, notes })
}

/// The shape, the rows of the embedding as stored, and the bytes of a value.
fn shape(path: &Path, header: &[i32]) -> Result<(ModelConfig, usize, usize)> {
    let wrong = |message: String| Error::data(path, message);
    match header[0] {
        MAGIC => {}
        STATE_MAGIC => return Err(wrong("holds a debugging state of llm.c, not a model".into())),
        other => {
            return Err(wrong(format!("begins with {other}, and an llm.c model with {MAGIC}: it is of another kind")));
        }
    }
    let value_bytes = match header[1] {
        3 => 4,
        5 => 2,
        version => {
            return Err(wrong(format!(
                "is an llm.c model of version {version}; taper reads version 3 (float32) and 5 (bfloat16), which llm.c \
                 writes since its vocabulary is padded"
            )));
        }
    };
    let size = |index: usize, name: &str| match header[index] {
        // Beyond 2^24 nothing of a GPT-2 reaches, and products of three such sizes are still exact.
        n @ 1..=0x0100_0000 => Ok(n as usize),
        n => Err(wrong(format!("says that its {name} is {n}"))),
    };
    let context_length = size(2, "context length")?;
    let vocab_size = size(3, "vocabulary")?;
    let n_layer = size(4, "number of layers")?;
    let n_head = size(5, "number of heads")?;
    let n_embd = size(6, "width")?;
    let padded = size(7, "padded vocabulary")?;
    if padded < vocab_size || !n_embd.is_multiple_of(n_head) || n_layer > 4096 || n_embd > 1 << 20 {
        return Err(wrong(format!(
            "describes {n_layer} layers of width {n_embd} with {n_head} heads, and {vocab_size} tokens padded to {padded}, \
             which no model can be"
        )));
    }
    let config = ModelConfig::gpt2(n_layer, n_head, n_embd, context_length, vocab_size);
    config.validate()?;
    Ok((config, padded, value_bytes))
}

fn read_values(reader: &mut impl Read, count: usize, value_bytes: usize) -> std::io::Result<Vec<f32>> {
    let mut bytes = vec![0; count * value_bytes];
    reader.read_exact(&mut bytes)?;
    Ok(if value_bytes == 4 {
        let (values, _) = bytes.as_chunks::<4>();
        values.iter().map(|value| f32::from_le_bytes(*value)).collect()
    } else {
        let (values, _) = bytes.as_chunks::<2>();
        values.iter().map(|value| bf16::from_le_bytes(*value).to_f32()).collect()
    })
}
