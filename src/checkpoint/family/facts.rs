//! What is to be known of a kind of model, so that its folders are written and read.

use serde_json::Value;

use crate::arch::config::ModelConfig;
use crate::arch::lora::LoraModules;
use crate::checkpoint::format::gguf::tensor::GgufFacts;
use crate::checkpoint::hf_config::HfConfig;
use crate::checkpoint::table::HfTensor;
use crate::error::Result;

/// A kind of model that transformers knows: one of our shapes, under other names.
#[derive(Debug)]
pub struct Family {
    /// What people call it.
    pub name: &'static str,
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// The class in transformers, which config.json names as its architecture.
    pub class: &'static str,
    /// What stands before the tensors' names in a model with an output layer, and not in one without.
    pub(in crate::checkpoint) prefix: &'static str,
    /// Ends of the names of constants that older versions of transformers saved with the weights.
    pub(in crate::checkpoint) constants: &'static [&'static str],
    /// The shape that a config.json of this type describes.
    ///
    /// Errors: `Data` that names the key, for what our GPT does not have.
    pub(in crate::checkpoint) parse: fn(&HfConfig) -> Result<ModelConfig>,
    /// The keys of config.json for a shape without obstacles and its end-of-text token, but for "dtype".
    pub(in crate::checkpoint) keys: fn(&ModelConfig, Option<u32>) -> Value,
    /// The options of a shape that the family cannot express, as sentences.
    pub(in crate::checkpoint) obstacles: fn(&ModelConfig) -> Vec<String>,
    /// The tensors of a file: of one that is there, with its config.json, or of one that is to be written.
    ///
    /// Errors: those of reading the keys.
    pub(in crate::checkpoint) table: fn(&ModelConfig, Option<&HfConfig>) -> Result<Vec<HfTensor>>,
    /// What the linear layers of a block are called.
    pub modules: &'static LoraModules,
    /// The same model in a file of llama.cpp.
    pub(in crate::checkpoint) gguf: GgufFacts,
}

impl PartialEq for Family {
    fn eq(&self, other: &Family) -> bool {
        self.model_type == other.model_type
    }
}

impl Eq for Family {}
