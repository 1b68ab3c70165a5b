//! Writing model folders: `config.json`, `generation_config.json` and the weights, in one file or in shards.
//!
//! The tokenizer's files and the atomic rename are the caller's. Training writes float32 in one file
//! ([`write_model_folder`]); what is given away may be narrower and in pieces ([`write_model_folder_as`]).

use super::format::safetensors::Writer;
use super::kind::{FolderKind, OWN_TYPE};
use super::table::{HfTensor, Source};
use super::weight_type::WeightType;

use crate::arch::config::ModelConfig;
use crate::arch::layout::{NamedParam, parameter_shapes};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Where the parameters of a model are when it is saved. One parameter is asked for at a time (GPT-2: twice at most), so
/// that weights on a device need not all be on the host together.
pub trait ParamSource {
    /// The values of the parameter called `name` (arena name), row-major.
    ///
    /// # Errors
    /// If there is no such parameter or it cannot be fetched.
    fn values(&self, name: &str) -> Result<Cow<'_, [f32]>>;
}

impl ParamSource for [NamedParam] {
    fn values(&self, name: &str) -> Result<Cow<'_, [f32]>> {
        match self.iter().find(|(own, _, _)| own == name) {
            Some((_, _, values)) => Ok(Cow::Borrowed(values)),
            None => Err(Error::Training(format!("the model has no parameter {name}"))),
        }
    }
}

impl ParamSource for Vec<NamedParam> {
    fn values(&self, name: &str) -> Result<Cow<'_, [f32]>> {
        self.as_slice().values(name)
    }
}

impl ParamSource for crate::tape::Params {
    fn values(&self, name: &str) -> Result<Cow<'_, [f32]>> {
        match self.layout().find(name) {
            Some(id) => Ok(Cow::Borrowed(&self.flat().f32()[self.layout().info(id).range()])),
            None => Err(Error::Training(format!("the model has no parameter {name}"))),
        }
    }
}

/// A file of weights that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its name in the folder.
    pub name: String,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

/// How weights are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// The dtype of all tensors.
    pub weights: WeightType,
    /// The most bytes of tensors in one file; a tensor that is larger has a file of its own. `None`: one file.
    pub shard_bytes: Option<u64>,
}

/// Writes a model into `folder` (made if absent): config.json, generation_config.json and model.safetensors in float32,
/// each made durable. Existing files of these names are overwritten: write into a temporary folder and rename it.
///
/// # Errors
/// `Io`; `Training` when `params` does not have what `config` asks for.
pub fn write_model_folder(
    folder: &Path,
    config: &ModelConfig,
    params: &dyn ParamSource,
    eos: Option<u32>,
) -> Result<Written> {
    let mut files = write_model_folder_as(folder, config, params, eos, Packing::default())?;
    files.pop().ok_or_else(|| Error::Training("a model without tensors cannot be written".into()))
}

/// As [`write_model_folder`], in another dtype, or in shards with `model.safetensors.index.json` where one file does not
/// hold it. Gives the files of weights, in order.
///
/// # Errors
/// As [`write_model_folder`], and `Usage` for a value that the dtype cannot hold.
pub fn write_model_folder_as(
    folder: &Path,
    config: &ModelConfig,
    params: &dyn ParamSource,
    eos: Option<u32>,
    packing: Packing,
) -> Result<Vec<Written>> {
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let kind = FolderKind::of(config);
    write_json(&folder.join("config.json"), &config_json(config, &kind, eos, packing.weights)?)?;
    let mut generation = json!({"_from_model_config": true});
    if let Some(eos) = eos {
        generation["bos_token_id"] = json!(eos);
        generation["eos_token_id"] = json!(eos);
    }
    write_json(&folder.join("generation_config.json"), &generation)?;

    let table = kind.table(config, None)?;
    let shapes: BTreeMap<String, Vec<usize>> = parameter_shapes(config).into_iter().collect();
    let shards = shards(&table, packing);
    let mut written = Vec::new();
    let (mut map, mut total) = (Map::new(), 0);
    for (index, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_string(),
            n => format!("model-{:05}-of-{n:05}.safetensors", index + 1),
        };
        let path = folder.join(&name);
        let names = shard.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()));
        let mut writer = Writer::create(&path, packing.weights, names)?;
        for tensor in *shard {
            write_tensor(&mut writer, tensor, params, &shapes)?;
            map.insert(tensor.name.clone(), json!(name));
            total += bytes_of(tensor, packing.weights);
        }
        let (sha256, bytes) = writer.finish()?;
        written.push(Written { name, sha256, bytes });
    }
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        write_json(&folder.join("model.safetensors.index.json"), &index)?;
    }
    sync_folder(folder)?;
    Ok(written)
}

fn bytes_of(tensor: &HfTensor, weights: WeightType) -> u64 {
    (weights.size() * tensor.shape.iter().product::<usize>()) as u64
}

/// The table cut into consecutive runs, each as long as fits.
fn shards(table: &[HfTensor], packing: Packing) -> Vec<&[HfTensor]> {
    let most = packing.shard_bytes.unwrap_or(u64::MAX);
    let (mut shards, mut start, mut bytes) = (Vec::new(), 0, 0u64);
    for (at, tensor) in table.iter().enumerate() {
        let size = bytes_of(tensor, packing.weights);
        if at > start && bytes.saturating_add(size) > most {
            shards.push(&table[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += size;
    }
    shards.push(&table[start..]);
    shards
}

fn write_tensor(
    writer: &mut Writer,
    tensor: &HfTensor,
    params: &dyn ParamSource,
    shapes: &BTreeMap<String, Vec<usize>>,
) -> Result<()> {
    let Source::Rows { parameter, start, transposed } = &tensor.source else {
        return writer.values(&vec![0.0; tensor.shape.iter().product()]);
    };
    let values = params.values(parameter)?;
    let expected: usize = shapes.get(parameter).map_or(0, |shape| shape.iter().product());
    if values.len() != expected {
        return Err(Error::Training(format!(
            "parameter {parameter} has {} values, and the model's shape asks for {expected}",
            values.len()
        )));
    }
    if *transposed {
        writer.values(&transpose(&values, tensor.shape[1], tensor.shape[0]))
    } else {
        let columns: usize = tensor.shape[1..].iter().product();
        writer.values(&values[start * columns..][..tensor.shape[0] * columns])
    }
}

/// config.json of a model: the keys of its architecture, and our exact shape under "taper".
pub(in crate::checkpoint) fn config_json(
    config: &ModelConfig,
    kind: &FolderKind,
    eos: Option<u32>,
    weights: WeightType,
) -> Result<Value> {
    let mut keys = match kind {
        FolderKind::Family(family) => (family.keys)(config, eos),
        FolderKind::Own { .. } => json!({
            "architectures": [kind.architecture()],
            "model_type": OWN_TYPE,
            "vocab_size": config.vocab_size,
            "bos_token_id": eos,
            "eos_token_id": eos,
            "tie_word_embeddings": config.tie_embeddings,
        }),
    };
    keys["dtype"] = json!(weights.torch_name());
    keys["taper"] = serde_json::to_value(config)
        .map_err(|error| Error::Training(format!("the model's shape cannot be written as JSON: {error}")))?;
    Ok(keys)
}

/// `[rows, columns]` to `[columns, rows]`, in tiles, or every read would miss the cache.
pub(in crate::checkpoint) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut out = vec![0.0; values.len()];
    for row_0 in (0..rows).step_by(TILE) {
        for column_0 in (0..columns).step_by(TILE) {
            for row in row_0..rows.min(row_0 + TILE) {
                for column in column_0..columns.min(column_0 + TILE) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}

pub(in crate::checkpoint) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    file.write_all(format!("{value:#}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}

/// Makes the names in a folder durable, where the system can do that.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|handle| handle.sync_all()).map_err(Error::io("write", folder))?;
    }
    Ok(())
}
