//! Which tensor of a model file holds which of our parameters.

use crate::arch::config::ModelConfig;
use crate::arch::layout::parameter_shapes;

/// One tensor of a model file and where its values are among our parameters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HfTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub source: Source,
}

/// Where the values of a tensor come from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    /// Consecutive rows of a parameter, from row `start`; as `[in, out]` where `transposed`.
    Rows { parameter: String, start: usize, transposed: bool },
    /// A bias that the architecture has and our model has not.
    Zeros,
}

impl HfTensor {
    /// A whole parameter.
    pub fn whole(name: impl Into<String>, parameter: impl Into<String>, shape: &[usize]) -> HfTensor {
        HfTensor::rows(name, parameter, 0, shape)
    }

    /// Rows of a parameter from row `start` on.
    pub fn rows(name: impl Into<String>, parameter: impl Into<String>, start: usize, shape: &[usize]) -> HfTensor {
        let source = Source::Rows { parameter: parameter.into(), start, transposed: false };
        HfTensor { name: name.into(), shape: shape.to_vec(), source }
    }

    /// Zeros.
    pub fn zeros(name: impl Into<String>, shape: &[usize]) -> HfTensor {
        HfTensor { name: name.into(), shape: shape.to_vec(), source: Source::Zeros }
    }
}

/// The table of our own layout: every parameter under its own name.
pub(super) fn own_table(config: &ModelConfig) -> Vec<HfTensor> {
    parameter_shapes(config).into_iter().map(|(name, shape)| HfTensor::whole(name.clone(), name, &shape)).collect()
}
