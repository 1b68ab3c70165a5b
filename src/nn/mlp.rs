//! The feed-forward layer.

use super::{Linear, Pass};
use crate::arch::config::{Mlp, ModelConfig};
use crate::error::Result;
use crate::ops;
use crate::tape::{Layout, Tape, Var};

/// A feed-forward layer's parameters.
#[derive(Clone, Debug)]
pub struct MlpLayer {
    kind: Mlp,
    /// To the inner width (for SwiGLU the gate's rows, then the others).
    pub up: Linear,
    /// Back to the residual stream.
    pub down: Linear,
}

impl MlpLayer {
    /// The layer whose parameters are those of `NAME.up` (or `NAME.gate_up`, gate rows first) and `NAME.down`.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn new(layout: &Layout, name: &str, config: &ModelConfig) -> MlpLayer {
        let up = if config.mlp == Mlp::Swiglu { "gate_up" } else { "up" };
        let linear = |part: &str| Linear::new(layout, &format!("{name}.{part}"));
        MlpLayer { kind: config.mlp, up: linear(up), down: linear("down") }
    }

    /// `x` [B, T, C] to [B, T, C].
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn forward(&self, tape: &mut Tape<'_>, x: &Var, layer: usize, pass: &Pass) -> Result<Var> {
        if self.kind == Mlp::Gelu && self.up.adapters.is_empty() && self.down.adapters.is_empty() {
            let plain = |linear: &Linear| (linear.weight, linear.bias);
            if let Some(y) = ops::linear::gelu::gelu_mlp(tape, x, plain(&self.up), plain(&self.down))? {
                return Ok(y);
            }
        }
        let up = self.up.forward(tape, x, layer, pass)?;
        let inner = match self.kind {
            Mlp::Gelu => ops::gelu::gelu(tape, &up, ops::gelu::Kind::Tanh)?,
            Mlp::GeluErf => ops::gelu::gelu(tape, &up, ops::gelu::Kind::Erf)?,
            Mlp::Swiglu => ops::swiglu::swiglu(tape, &up)?,
            Mlp::Relu2 => ops::relu2::relu2(tape, &up)?,
        };
        drop(up);
        self.down.forward(tape, &inner, layer, pass)
    }
}
