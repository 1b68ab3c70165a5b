//! Model folders: how a model stands on disk, in the layout that Hugging Face `transformers` loads with no custom code.
//!
//! The one idea: a folder's tensors are described by a table ([`HfTensor`]), one row for each tensor of the file, saying
//! which rows of which of our parameters it holds and whether it is transposed. Writing walks the table one way, reading
//! the other, so the two cannot drift apart. `gpt2` and `llama` state the tables and the keys of config.json; `write` and
//! `folder` do the work; `format::safetensors` is the file format. `convert` changes a model that was read; `format` has
//! the files of llama.cpp, llm.c and `peft` too.
//!
//! What is unusual: every config.json we write also holds our exact [`ModelConfig`] under the key `taper`, which
//! transformers ignores and keeps. It brings back what the Hugging Face keys cannot say (that a bias is absent, where the
//! file has zeros). It is believed only as far as the other keys and the weights bear it out, since a folder may have been
//! loaded, changed and saved again by transformers.

pub mod arena_file;
pub mod config;
pub mod convert;
mod family;
mod folder;
pub mod format;
mod hf_config;
pub mod state;
pub mod store;
mod weight_type;
mod write;

pub use format::{gguf, llmc, peft as adapter};

pub use folder::{ModelFolder, read_model_folder};
pub use weight_type::WeightType;
pub use write::{Packing, ParamSource, Written, write_model_folder, write_model_folder_as};

use crate::arch::config::ModelConfig;
use crate::arch::layout::parameter_shapes;
use family::{gpt2, llama};

/// Which kind of model folder a shape is saved as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `GPT2LMHeadModel`.
    Gpt2,
    /// `LlamaForCausalLM`.
    Llama,
    /// Our own names, which transformers does not load.
    Own {
        /// The options that keep the nearest of the two from expressing the shape, as sentences.
        reasons: Vec<String>,
    },
}

impl Layout {
    /// The layout that a shape is saved in.
    pub fn of(config: &ModelConfig) -> Layout {
        let (gpt2, llama) = (gpt2::obstacles(config), llama::obstacles(config));
        if gpt2.is_empty() {
            Layout::Gpt2
        } else if llama.is_empty() {
            Layout::Llama
        } else {
            Layout::Own { reasons: if gpt2.len() <= llama.len() { gpt2 } else { llama } }
        }
    }

    /// The name of the architecture in config.json.
    pub fn architecture(&self) -> &'static str {
        match self {
            Layout::Gpt2 => "GPT2LMHeadModel",
            Layout::Llama => "LlamaForCausalLM",
            Layout::Own { .. } => "TaperForCausalLM",
        }
    }

    /// Whether transformers loads such a folder as it is.
    pub fn loads_in_transformers(&self) -> bool {
        !matches!(self, Layout::Own { .. })
    }
}

/// One tensor of a model file and where its values are among our parameters.
#[derive(Clone, Debug, PartialEq)]
struct HfTensor {
    name: String,
    shape: Vec<usize>,
    source: Source,
}

/// Where the values of a tensor come from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    /// Consecutive rows of a parameter, from row `start`; as `[in, out]` where `transposed`.
    Rows { parameter: String, start: usize, transposed: bool },
    /// A bias that the architecture has and our model has not.
    Zeros,
}

impl HfTensor {
    fn whole(name: impl Into<String>, parameter: impl Into<String>, shape: &[usize]) -> HfTensor {
        HfTensor::rows(name, parameter, 0, shape)
    }

    fn rows(name: impl Into<String>, parameter: impl Into<String>, start: usize, shape: &[usize]) -> HfTensor {
        let source = Source::Rows { parameter: parameter.into(), start, transposed: false };
        HfTensor { name: name.into(), shape: shape.to_vec(), source }
    }

    fn zeros(name: impl Into<String>, shape: &[usize]) -> HfTensor {
        HfTensor { name: name.into(), shape: shape.to_vec(), source: Source::Zeros }
    }
}

/// The table of our own layout: every parameter under its own name.
fn own_table(config: &ModelConfig) -> Vec<HfTensor> {
    parameter_shapes(config).into_iter().map(|(name, shape)| HfTensor::whole(name.clone(), name, &shape)).collect()
}
