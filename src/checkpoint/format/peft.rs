//! Adapters on disk, as Python's `peft` writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! A tensor is called `base_model.model.`, the module's path in `transformers`, and `.lora_A.weight` [rank, in] or
//! `.lora_B.weight` [out, rank]; that holds for GPT-2's `Conv1D` too, whose own weights are `[in, out]` (`fan_in_fan_out`
//! says so). The table of tensors of a model folder tells which rows of which of our parameters a module is, so merging
//! knows no names of its own.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::safetensors::{Weights, Writer};
use crate::arch::config::ModelConfig;
use crate::arch::lora::{Lora, LoraModules};
use crate::checkpoint::folder::ModelFolder;
use crate::checkpoint::kind::FolderKind;
use crate::checkpoint::table::{HfTensor, Source};
use crate::checkpoint::weight_type::WeightType;
use crate::checkpoint::write::{ParamSource, Written, write_json};
use crate::error::{Error, Result};
use crate::tape::Layout as ArenaLayout;

/// The file that makes a folder one of adapters.
pub const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// Options of `peft` that change what an adapter computes, and that taper does not know.
const UNKNOWN: [&str; 9] = [
    "use_dora",
    "use_qalora",
    "layer_replication",
    "bias",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "alora_invocation_tokens",
];

/// What the layers of a shape are called in transformers; `None` where transformers has no such model.
pub fn family(config: &ModelConfig) -> Option<&'static LoraModules> {
    FolderKind::of(config).family().map(|family| family.modules)
}

/// Whether a folder holds adapters and not a model.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).is_file() && !folder.join("config.json").is_file()
}

/// Writes the adapters of a model that was `base` (a folder, or `OWNER/NAME`) into `folder`; `layout` says which parameters
/// are theirs.
///
/// # Errors
/// `Io`; `Training` if `params` lacks one.
pub fn write_adapter(
    folder: &Path,
    lora: &Lora,
    base: &str,
    layout: &ArenaLayout,
    params: &dyn ParamSource,
) -> Result<Written> {
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": lora.targets,
        "fan_in_fan_out": lora.names.fan_in_fan_out,
        "bias": "none",
        "use_rslora": false,
        "use_dora": false,
        "init_lora_weights": true,
        "modules_to_save": Value::Null,
        "inference_mode": true,
    });
    write_json(&folder.join(CONFIG), &config)?;
    let trained: Vec<(String, &str, &[usize])> = layout
        .trained_infos()
        .map(|(info, _)| (format!("{PREFIX}{}", info.name), info.name.as_str(), info.shape.as_slice()))
        .collect();
    let path = folder.join(WEIGHTS);
    let header = trained.iter().map(|(name, _, shape)| (name.as_str(), *shape));
    let mut writer = Writer::create(&path, WeightType::F32, header)?;
    for (_, own, _) in &trained {
        writer.values(&params.values(own)?)?;
    }
    let (sha256, bytes) = writer.finish()?;
    Ok(Written { name: WEIGHTS.into(), sha256, bytes })
}

/// Adapters as a folder holds them.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The model that they correct: a folder, or `OWNER/NAME` on the Hub.
    pub base: String,
    scale: f64,
    /// Of each module, by its path: A [rank, in] and B [out, rank].
    modules: BTreeMap<String, (Matrix, Matrix)>,
}

/// Rows, columns, values.
type Matrix = (usize, usize, Vec<f32>);

/// Reads adapters: ours, or those that `peft` saved.
///
/// # Errors
/// `Io`; `Data` for whatever is wrong in the files, and for options of `peft` that taper does not know.
pub fn read_adapter(folder: &Path) -> Result<Adapter> {
    let path = folder.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let config: Value = serde_json::from_str(&text).map_err(|error| Error::data(&path, error.to_string()))?;
    let wrong = |message: String| Error::data(&path, message);
    if config["peft_type"] != "LORA" {
        return Err(wrong(format!("is of peft_type {}; taper reads \"LORA\"", config["peft_type"])));
    }
    let off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text == "none",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    for key in UNKNOWN {
        if !off(&config[key]) {
            return Err(wrong(format!("has \"{key}\" = {}, which taper does not know", config[key])));
        }
    }
    let base = config["base_model_name_or_path"].as_str();
    let base = base.ok_or_else(|| wrong("does not name its base_model_name_or_path".into()))?.to_string();
    let rank = config["r"].as_u64().filter(|&rank| rank > 0).ok_or_else(|| wrong("has no rank \"r\"".into()))?;
    let alpha = config["lora_alpha"].as_f64().ok_or_else(|| wrong("has no \"lora_alpha\"".into()))?;
    let divisor = if config["use_rslora"] == true { (rank as f64).sqrt() } else { rank as f64 };

    let file = folder.join(WEIGHTS);
    let weights = Weights::open(std::slice::from_ref(&file))?;
    let mut found: BTreeMap<String, [Option<Matrix>; 2]> = BTreeMap::new();
    for (name, entry) in weights.tensors() {
        let module = name.strip_prefix(PREFIX).and_then(|name| {
            let ends = [".lora_A.weight", ".lora_B.weight"];
            ends.iter().enumerate().find_map(|(which, end)| Some((name.strip_suffix(end)?, which)))
        });
        let (Some((module, which)), &[rows, columns]) = (module, entry.shape.as_slice()) else {
            return Err(Error::data(&file, format!("holds tensor {name}, which is no LoRA matrix of a linear layer")));
        };
        if [rows, columns][which] as u64 != rank {
            return Err(Error::data(
                &file,
                format!("tensor {name} has shape {:?}, and the rank is {rank}", entry.shape),
            ));
        }
        found.entry(module.into()).or_default()[which] = Some((rows, columns, weights.read_f32(name, entry)?));
    }
    let mut modules = BTreeMap::new();
    for (module, pair) in found {
        let [Some(a), Some(b)] = pair else {
            return Err(Error::data(&file, format!("module {module} lacks its lora_A or its lora_B")));
        };
        modules.insert(module, (a, b));
    }
    Ok(Adapter { base, scale: alpha / divisor, modules })
}

impl Adapter {
    /// Adds the corrections to the weights of the model that they were trained on: `W += scale B A`.
    ///
    /// # Errors
    /// `Data` for a module that the model has not, or that is of another shape there.
    pub fn merge(&self, folder: &Path, model: &mut ModelFolder) -> Result<()> {
        let table: Vec<HfTensor> = match FolderKind::of(&model.config) {
            FolderKind::Family(family) => (family.table)(&model.config, None)?,
            FolderKind::Own { .. } => Vec::new(),
        };
        for (module, (a, b)) in &self.modules {
            let wrong = |what: String| Error::data(folder.join(WEIGHTS), format!("the adapter of {module} {what}"));
            let name = format!("{module}.weight");
            let tensor = table.iter().find(|tensor| tensor.name == name);
            let Some(Source::Rows { parameter, start, transposed }) = tensor.map(|tensor| &tensor.source) else {
                return Err(wrong(format!("has no layer to correct in the model {}", self.base)));
            };
            let shape = &tensor.expect("found above").shape;
            let (rows, columns) = if *transposed { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
            if (b.0, a.1) != (rows, columns) {
                return Err(wrong(format!("is for {} x {}, and the layer is {rows} x {columns}", b.0, a.1)));
            }
            let values = model.params.iter_mut().find(|(name, _, _)| name == parameter);
            let (_, _, values) = values.ok_or_else(|| wrong(format!("is of {parameter}, which the model lacks")))?;
            let part = &mut values[start * columns..][..rows * columns];
            part.par_chunks_exact_mut(columns).zip(b.2.par_chunks_exact(a.0)).for_each(|(row, up)| {
                let mut sum = vec![0.0f64; columns];
                for (factor, down) in up.iter().zip(a.2.chunks_exact(columns)) {
                    sum.iter_mut().zip(down).for_each(|(sum, down)| *sum += f64::from(*factor) * f64::from(*down));
                }
                row.iter_mut().zip(&sum).for_each(|(w, sum)| *w = (f64::from(*w) + self.scale * sum) as f32);
            });
        }
        Ok(())
    }
}
