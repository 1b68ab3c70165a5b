//! Reading model folders: ours, and those that `save_pretrained` writes for GPT-2 and Llama.
//!
//! Everything is checked before anything large is allocated, and every complaint names the tensor or the key.

use super::family::FAMILIES;
use super::format::safetensors::{Entry, Weights};
use super::hf_config::HfConfig;
use super::kind::{FolderKind, OWN_TYPE};
use super::table::{HfTensor, Source};
use super::weight_type::WeightType;
use super::write::{config_json, transpose};

use crate::arch::config::ModelConfig;
use crate::arch::layout::{NamedParam, parameter_shapes};
use crate::error::{Error, Result, ResultExt};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A model as a folder holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFolder {
    /// The shape.
    pub config: ModelConfig,
    /// Name, shape and values of every parameter, in arena order.
    pub params: Vec<NamedParam>,
    /// The end-of-text token, where the folder names one.
    pub eos: Option<u32>,
    /// What a user should know: what was ignored or taken differently than it was written.
    pub notes: Vec<String>,
}

/// Reads a model folder: one of ours, or one of GPT-2 or Llama type saved by transformers.
///
/// # Errors
/// `Io` for files that are missing or unreadable; `Data` for whatever is wrong in them: an architecture or option that
/// taper has not, JSON or safetensors that are corrupt, tensors that are missing, left over, or of the wrong shape.
pub fn read_model_folder(folder: &Path) -> Result<ModelFolder> {
    if !folder.is_dir() {
        return Err(Error::Io { action: "read", path: folder.into(), source: std::io::ErrorKind::NotFound.into() });
    }
    let hf = HfConfig::read(&folder.join("config.json"))?;
    if hf.get("quantization_config").is_some() {
        return Err(hf.error("describes quantized weights, which taper does not read; save the model unquantized"));
    }
    let model_type = hf.text("model_type", "")?;
    let own = own_config(&hf)?;
    let kind = match FolderKind::of_type(model_type) {
        Some(kind) => kind,
        None if model_type.is_empty() => return Err(hf.error("has no \"model_type\", so it is no model's config")),
        None => {
            let known = FAMILIES.map(|family| family.model_type).join(", ");
            return Err(hf.error(format!("is of model_type \"{model_type}\"; taper reads {known} and its own folders")));
        }
    };
    let said = match (&kind, &own) {
        (FolderKind::Family(family), _) => (family.parse)(&hf)?,
        (FolderKind::Own { .. }, Some(own)) => own.clone(),
        (FolderKind::Own { .. }, None) => {
            return Err(
                hf.error(format!("has \"model_type\" = \"{OWN_TYPE}\" and no \"taper\" key with the model's shape"))
            );
        }
    };
    said.validate().context(|| format!("reading {}", folder.join("config.json").display()))?;
    let eos = eos_of(folder, &hf)?;
    let weights = Weights::open_folder(folder)?;
    // Before anything is made for each layer: a config cannot claim more layers than there are tensors.
    if said.n_layer > weights.tensors().len() {
        return Err(hf.error(format!(
            "says that there are {} layers, and the weights hold only {} tensors",
            said.n_layer,
            weights.tensors().len()
        )));
    }
    let mut notes = Vec::new();
    let mut config = match own {
        Some(own) if kind.family().is_some() => refine(&hf, &said, own, &mut notes)?,
        _ => said.clone(),
    };
    let mut table = kind.table(&config, Some(&hf))?;
    let mut found = resolve(folder, &kind, &table, &weights, &config)?;
    if let Some(name) = nonzero_among_zeros(&table, &found, &weights)? {
        notes.push(format!("{name} is not zero, so the model is taken to have biases"));
        config = said;
        table = kind.table(&config, Some(&hf))?;
        found = resolve(folder, &kind, &table, &weights, &config)?;
    }
    let params = gather(&config, &table, &found, &weights)?;
    Ok(ModelFolder { config, params, eos, notes })
}

fn own_config(hf: &HfConfig) -> Result<Option<ModelConfig>> {
    let Some(value) = hf.get("taper") else { return Ok(None) };
    match serde_json::from_value(value.clone()) {
        Ok(config) => Ok(Some(config)),
        Err(error) => Err(hf.error(format!("the key \"taper\" is not a model's shape: {error}"))),
    }
}

/// Our own record of the shape, if it says the same as the other keys do; else what those say, with a note.
fn refine(hf: &HfConfig, said: &ModelConfig, own: ModelConfig, notes: &mut Vec<String>) -> Result<ModelConfig> {
    let own = ModelConfig { dropout: said.dropout, ..own };
    let kind = FolderKind::of(&own);
    let same = own.validate().is_ok() && {
        let Value::Object(keys) = config_json(&own, &kind, None, WeightType::F32)? else { return Ok(own) };
        let written = HfConfig::new(Path::new("config.json"), keys);
        match kind.family() {
            // The shapes first: a table is long where a config claims many layers.
            Some(family) => {
                (family.parse)(&written)? == *said
                    && (family.table)(&own, Some(&written))? == (family.table)(&own, Some(hf))?
            }
            None => false,
        }
    };
    if same {
        return Ok(own);
    }
    notes.push("config.json was changed since taper wrote it; its \"taper\" key is ignored".into());
    Ok(said.clone())
}

/// The end-of-text token, from config.json, else from generation_config.json (which need not be there).
fn eos_of(folder: &Path, hf: &HfConfig) -> Result<Option<u32>> {
    if let Some(eos) = hf.eos()? {
        return Ok(Some(eos));
    }
    let generation = folder.join("generation_config.json");
    if generation.exists() { HfConfig::read(&generation)?.eos() } else { Ok(None) }
}

/// Finds every tensor of the table among the weights, and complains of what is missing, misshapen, or left over.
fn resolve<'a>(
    folder: &Path,
    kind: &FolderKind,
    table: &[HfTensor],
    weights: &'a Weights,
    config: &ModelConfig,
) -> Result<Vec<(&'a str, &'a Entry)>> {
    let mut used = BTreeSet::new();
    let mut found = Vec::with_capacity(table.len());
    for tensor in table {
        let Some((name, entry)) = lookup(weights, kind, &tensor.name) else {
            return Err(Error::data(
                folder,
                format!("the weights have no tensor {}, which config.json asks for", tensor.name),
            ));
        };
        if entry.shape != tensor.shape {
            return Err(Error::data(
                weights.path_of(entry),
                format!("tensor {name} has shape {:?}; config.json asks for {:?}", entry.shape, tensor.shape),
            ));
        }
        used.insert(name);
        found.push((name, entry));
    }
    for (name, entry) in weights.tensors() {
        if used.contains(name.as_str()) || is_buffer(name) {
            continue;
        }
        if name == "lm_head.weight" && config.tie_embeddings {
            let embedding = found.iter().zip(table).find(|(_, t)| is_embedding(t));
            let same = match embedding {
                Some(((wte, at), _)) => {
                    entry.shape == at.shape
                        && bits(&weights.read_f32(name, entry)?) == bits(&weights.read_f32(wte, at)?)
                }
                None => false,
            };
            if same {
                continue;
            }
            return Err(Error::data(
                weights.path_of(entry),
                "holds an lm_head.weight other than the token embedding, and config.json says \"tie_word_embeddings\": true",
            ));
        }
        return Err(Error::data(
            weights.path_of(entry),
            format!("holds tensor {name} of shape {:?}, which the model of config.json lacks", entry.shape),
        ));
    }
    Ok(found)
}

fn is_embedding(tensor: &HfTensor) -> bool {
    matches!(&tensor.source, Source::Rows { parameter, .. } if parameter == "wte.weight")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A tensor by its full name, or without the prefix that base models leave out.
fn lookup<'a>(weights: &'a Weights, kind: &FolderKind, name: &str) -> Option<(&'a str, &'a Entry)> {
    let bare = kind.family().and_then(|family| name.strip_prefix(family.prefix));
    [Some(name), bare]
        .into_iter()
        .flatten()
        .find_map(|name| weights.tensors().get_key_value(name).map(|(name, entry)| (name.as_str(), entry)))
}

/// Constants that older versions of transformers saved with the weights.
fn is_buffer(name: &str) -> bool {
    FAMILIES.iter().flat_map(|family| family.constants).any(|end| name.ends_with(end))
}

/// The first tensor that must be zero (a bias that our model has not) and is not.
fn nonzero_among_zeros<'a>(
    table: &[HfTensor],
    found: &[(&'a str, &Entry)],
    weights: &Weights,
) -> Result<Option<&'a str>> {
    for (tensor, (name, entry)) in table.iter().zip(found) {
        if tensor.source == Source::Zeros && weights.read_f32(name, entry)?.iter().any(|&value| value != 0.0) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Reads all values into our parameters. A bias that the file lacks and our model has is zero.
fn gather(
    config: &ModelConfig,
    table: &[HfTensor],
    found: &[(&str, &Entry)],
    weights: &Weights,
) -> Result<Vec<NamedParam>> {
    let mut params: Vec<NamedParam> = parameter_shapes(config)
        .into_iter()
        .map(|(name, shape)| {
            let values = vec![0.0; shape.iter().product()];
            (name, shape, values)
        })
        .collect();
    let place: BTreeMap<String, usize> = params.iter().enumerate().map(|(i, (name, _, _))| (name.clone(), i)).collect();
    for (tensor, (name, entry)) in table.iter().zip(found) {
        let Source::Rows { parameter, start, transposed } = &tensor.source else { continue };
        let values = weights.read_f32(name, entry)?;
        let Some(&at) = place.get(parameter) else {
            return Err(Error::Training(format!("the table of tensors names {parameter}, which the model lacks")));
        };
        let (into, columns) = (&mut params[at].2, tensor.shape[1..].iter().product::<usize>());
        if *transposed {
            into.copy_from_slice(&transpose(&values, tensor.shape[0], tensor.shape[1]));
        } else {
            into[start * columns..][..values.len()].copy_from_slice(&values);
        }
    }
    Ok(params)
}
