//! Model folders: how a model stands on disk, in the layout that Hugging Face `transformers` loads with no custom code.
//!
//! The one idea: a folder's tensors are described by a table (`table`), one row for each tensor of the file, saying
//! which rows of which of our parameters it holds and whether it is transposed. Writing walks the table one way, reading
//! the other, so the two cannot drift apart. `family` states the tables and the keys of config.json; `write` and
//! `folder` do the work; `format::safetensors` is the file format. `convert` changes a model that was read; `format` has
//! the files of llama.cpp, llm.c and `peft` too.
//!
//! What is unusual: every config.json we write also holds our exact [`crate::arch::ModelConfig`] under the key `taper`,
//! which transformers ignores and keeps. It brings back what the Hugging Face keys cannot say (that a bias is absent, where
//! the file has zeros). It is believed only as far as the other keys and the weights bear it out, since a folder may have
//! been loaded, changed and saved again by transformers.

pub mod arena_file;
pub mod config;
pub mod convert;
pub mod family;
mod folder;
pub mod format;
mod fs;
mod hf_config;
mod kind;
pub mod state;
pub mod store;
mod table;
mod weight_type;
mod write;

pub use format::{gguf, llmc, peft as adapter};

pub use folder::{ModelFolder, read_model_folder};
pub use kind::FolderKind;
pub use weight_type::WeightType;
pub use write::{Packing, ParamSource, Written, write_model_folder, write_model_folder_as};
