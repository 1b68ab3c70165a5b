//! The feed-forward layer.

use super::{Builder, Linear, Pass};
use crate::arch::config::{Mlp, ModelConfig};
use crate::error::Result;
use crate::ops;
use crate::tape::{Tape, Var};

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
    /// Adds `NAME.up` (or `NAME.gate_up`, gate rows first) and `NAME.down`.
    pub fn new(builder: &mut Builder, name: &str, config: &ModelConfig, std: f64, std_residual: f64) -> MlpLayer {
        let (c, m) = (config.n_embd, config.mlp_dim);
        let up = if config.mlp == Mlp::Swiglu {
            let parts = [(format!("{name}.gate.weight"), m), (format!("{name}.up.weight"), m)];
            Linear::new(
                builder.packed(&format!("{name}.gate_up.weight"), &[2 * m, c], std, &parts),
                builder.bias(&format!("{name}.gate_up.bias"), 2 * m, config.bias),
            )
        } else {
            Linear::new(
                builder.normal(&format!("{name}.up.weight"), &[m, c], std),
                builder.bias(&format!("{name}.up.bias"), m, config.bias),
            )
        };
        let down = Linear::new(
            builder.normal(&format!("{name}.down.weight"), &[c, m], std_residual),
            builder.bias(&format!("{name}.down.bias"), c, config.bias),
        );
        MlpLayer { kind: config.mlp, up, down }
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
