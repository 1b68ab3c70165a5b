//! LayerNorm or RMSNorm, as the config says.

use super::layer;
use crate::arch::config::{ModelConfig, Norm};
use crate::error::Result;
use crate::ops;
use crate::tape::{Layout, ParamId, Tape, Var};

/// A norm's parameters.
#[derive(Clone, Copy, Debug)]
pub struct NormLayer {
    kind: Norm,
    weight: ParamId,
    bias: Option<ParamId>,
    eps: f32,
}

impl NormLayer {
    /// The norm whose parameters are `NAME.weight` and, where there is one, `NAME.bias`.
    ///
    /// # Panics
    /// If there is no such norm.
    pub fn new(layout: &Layout, name: &str, config: &ModelConfig) -> NormLayer {
        let (weight, bias) = layer(layout, name);
        NormLayer { kind: config.norm, weight, bias, eps: config.norm_eps as f32 }
    }

    /// `x` [.., C] to [.., C].
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn forward(&self, tape: &mut Tape<'_>, x: &Var) -> Result<Var> {
        match self.kind {
            Norm::Layernorm => ops::layernorm::layernorm(tape, x, self.weight, self.bias, self.eps),
            Norm::Rmsnorm => ops::rmsnorm::rmsnorm(tape, x, self.weight, self.eps),
        }
    }

    /// The residual sum `x + delta` [.., C] and its norm; one pass over memory on a GPU.
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn forward_sum(&self, tape: &mut Tape<'_>, x: &Var, delta: Var) -> Result<[Var; 2]> {
        match self.kind {
            Norm::Layernorm => ops::layernorm::add_layernorm(tape, x, delta, self.weight, self.bias, self.eps),
            Norm::Rmsnorm => ops::rmsnorm::add_rmsnorm(tape, x, delta, self.weight, self.eps),
        }
    }
}
