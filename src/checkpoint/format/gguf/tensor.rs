//! The tensors of a GGUF file, and what a family of models has to say of them.

use super::file::Meta;
use crate::arch::config::ModelConfig;

/// A model in llama.cpp.
#[derive(Debug)]
pub(in crate::checkpoint) struct GgufFacts {
    /// llama.cpp's name of the architecture.
    pub architecture: &'static str,
    /// What keeps llama.cpp from computing a shape of the family, as a sentence.
    pub obstacle: fn(&ModelConfig) -> Option<&'static str>,
    /// Keys of the metadata, after the architecture's name, that this architecture has beyond those of all.
    pub metadata: fn(&ModelConfig) -> Vec<(&'static str, Meta)>,
    /// The tensors of the file.
    pub tensors: fn(&ModelConfig) -> Vec<Tensor>,
}

/// One tensor of the file and where its values are among our parameters.
#[derive(Debug)]
pub(in crate::checkpoint) struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// The parameter, and the first of its rows; `None` where all is zero.
    pub source: Option<(String, usize)>,
    /// Heads whose rows are interleaved, where they are.
    pub heads: Option<usize>,
    /// Whether it stays float32.
    pub exact: bool,
}

impl Tensor {
    /// Rows of a matrix, from row `start`.
    pub fn matrix(name: impl Into<String>, parameter: &str, start: usize, rows: usize, columns: usize) -> Tensor {
        let source = Some((parameter.to_string(), start));
        Tensor { name: name.into(), shape: vec![rows, columns], source, heads: None, exact: false }
    }

    /// A vector, which stays float32.
    pub fn vector(name: String, source: Option<(String, usize)>, size: usize) -> Tensor {
        Tensor { name, shape: vec![size], source, heads: None, exact: true }
    }
}
