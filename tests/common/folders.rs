//! Model folders to test with: written by us, or a fixture's edited. Use next to `fixtures.rs`, as `mod folders`.
#![allow(dead_code)] // each test file uses a part of it

use crate::fixtures;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use taper::arch::ModelConfig;
use taper::arch::layout::parameter_shapes;
use taper::checkpoint::{read_model_folder, write_model_folder};
use tempfile::TempDir;

/// Name, shape, values.
pub type Params = Vec<(String, Vec<usize>, Vec<f32>)>;
/// Tensors of a file by name: dtype, shape, bytes.
pub type Raw = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// The tensors of a file.
pub fn raw(path: &Path) -> Raw {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(n, v)| (n.to_string(), (v.dtype(), v.shape().to_vec(), v.data().to_vec()))).collect()
}

/// Writes a file with the `safetensors` crate.
pub fn write_raw(path: &Path, tensors: &Raw) {
    let views = tensors.iter().map(|(n, (d, s, v))| (n.clone(), TensorView::new(*d, s.clone(), v).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

/// A file as JSON.
pub fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A fixture's folder with its config.json and tensors edited.
pub fn edited(name: &str, edit: impl FnOnce(&mut Value, &mut Raw)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut config = json_of(&fixtures::folder(name).join("config.json"));
    let mut tensors = raw(&fixtures::folder(name).join("model.safetensors"));
    edit(&mut config, &mut tensors);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    write_raw(&dir.path().join("model.safetensors"), &tensors);
    dir
}

/// What reading a broken folder says.
pub fn error_of(dir: &Path) -> String {
    read_model_folder(dir).expect_err("a broken folder was read").to_string()
}

/// A small GPT-2.
pub fn base() -> ModelConfig {
    ModelConfig { mlp_dim: 12, rope_theta: 777.0, ..ModelConfig::gpt2(2, 2, 8, 5, 11) }
}

/// Parameters of distinct, unremarkable values.
pub fn params_of(config: &ModelConfig) -> Params {
    let mut count = 0;
    let mut next = || {
        count += 1;
        (count as f32 * 0.37).sin()
    };
    let fill = |(name, shape): (String, Vec<usize>)| {
        let values = (0..shape.iter().product()).map(|_| next()).collect();
        (name, shape, values)
    };
    parameter_shapes(config).into_iter().map(fill).collect()
}

/// A folder written by us.
pub fn written(config: &ModelConfig, eos: Option<u32>) -> (TempDir, Params) {
    let (dir, params) = (TempDir::new().unwrap(), params_of(config));
    write_model_folder(dir.path(), config, &params, eos).unwrap();
    (dir, params)
}
