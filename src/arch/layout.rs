//! The parameters of a model, in arena order: names, shapes, initial values and roles.
//!
//! One list, stated once: the engine lays its arena out by it, layers look their parameters up in that, and the reference
//! engine and the model folders look tensors up by it. All linear weights are `[out, in]`. L layers, C `n_embd`, H heads, K
//! key-value heads, D `head_dim`, M `mlp_dim`, V vocabulary, T context.

use super::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use super::init::Init;
use super::lora::Lora;
use crate::tape::{Layout, Role};

/// Standard deviation of initial weights (GPT-2).
const INIT_STD: f64 = 0.02;

/// A parameter on the host: its arena name, its shape, its values row-major.
pub type NamedParam = (String, Vec<usize>, Vec<f32>);

/// What is to be known of a parameter before it has a value.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// The name in the arena, such as `h.0.attn.qkv.weight`.
    pub name: String,
    /// Extents; linear weights are [out, in].
    pub shape: Vec<usize>,
    /// What it is at the start.
    pub init: Init,
    /// What it does in the model.
    pub role: Role,
}

/// Every parameter of a model, in arena order; those of the adapters, if there are any, stand behind all others.
///
/// `attn.qkv` packs all query heads, then all key heads, then all value heads; `mlp.gate_up` packs the gate's rows, then
/// the up projection's.
pub fn parameter_specs(config: &ModelConfig, lora: Option<&Lora>) -> Vec<ParamSpec> {
    let mut list = List { specs: Vec::new(), norm_bias: config.norm == Norm::Layernorm && config.bias };
    let (c, m, v) = (config.n_embd, config.mlp_dim, config.vocab_size);
    let std_residual = INIT_STD / ((2 * config.n_layer) as f64).sqrt();
    list.matrix("wte", [v, c], Role::Embedding, INIT_STD);
    if config.position == Position::Learned {
        list.matrix("wpe", [config.context_length, c], Role::PositionEmbedding, INIT_STD);
    }
    for i in 0..config.n_layer {
        list.norm(&format!("h.{i}.norm_1"), c);
        let (attn, mlp) = (format!("h.{i}.attn"), format!("h.{i}.mlp"));
        let (queries, keys) = (config.attn_dim(), config.n_kv_head * config.head_dim);
        let parts =
            [("q", queries), ("k", keys), ("v", keys)].map(|(part, rows)| (format!("{attn}.{part}.weight"), rows));
        let role = Role::AttentionQkv { queries, keys };
        list.packed(&format!("{attn}.qkv"), [config.qkv_dim(), c], role, INIT_STD, parts.into(), config.qkv_bias);
        list.linear(&format!("{attn}.proj"), [c, config.attn_dim()], Role::AttentionProj, std_residual, config.bias);
        list.norm(&format!("h.{i}.norm_2"), c);
        match config.mlp {
            Mlp::Swiglu => {
                let parts = ["gate", "up"].map(|part| (format!("{mlp}.{part}.weight"), m));
                let role = Role::MlpUp { gate: m, up: m };
                list.packed(&format!("{mlp}.gate_up"), [2 * m, c], role, INIT_STD, parts.into(), config.bias);
            }
            Mlp::Gelu | Mlp::GeluErf | Mlp::Relu2 => {
                list.linear(&format!("{mlp}.up"), [m, c], Role::MlpUp { gate: 0, up: m }, INIT_STD, config.bias);
            }
        }
        list.linear(&format!("{mlp}.down"), [c, m], Role::MlpDown, std_residual, config.bias);
    }
    if config.norm_position == NormPosition::Pre {
        list.norm("norm_f", c);
    }
    if !config.tie_embeddings {
        list.matrix("lm_head", [v, c], Role::Head, INIT_STD);
    }
    if let Some(lora) = lora {
        list.adapters(config, lora);
    }
    list.specs
}

/// Every parameter's name and shape, adapters not included, in arena order.
pub fn parameter_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    parameter_specs(config, None).into_iter().map(|spec| (spec.name, spec.shape)).collect()
}

/// The arena of a model's parameters. Where there are adapters, they alone are trained. Matrices with a row for each token
/// have room for `rows` rows.
///
/// # Panics
/// If `rows` are fewer than the vocabulary.
pub fn arena(specs: &[ParamSpec], rows: usize) -> Layout {
    let mut layout = Layout::default();
    let frozen = specs.iter().position(|spec| spec.role == Role::Adapter);
    for (index, spec) in specs.iter().enumerate() {
        if frozen == Some(index) {
            layout.freeze();
        }
        let rows = if spec.role.of_vocabulary() { rows } else { spec.shape[0] };
        layout.push_as(&spec.name, &spec.shape, spec.role, rows);
    }
    layout
}

/// The list in the making.
struct List {
    specs: Vec<ParamSpec>,
    norm_bias: bool,
}

impl List {
    fn push(&mut self, name: String, shape: &[usize], role: Role, init: Init) {
        self.specs.push(ParamSpec { name, shape: shape.to_vec(), init, role });
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2], role: Role, std: f64) {
        self.linear(name, shape, role, std, false);
    }

    fn linear(&mut self, name: &str, shape: [usize; 2], role: Role, std: f64, bias: bool) {
        let parts = vec![(format!("{name}.weight"), shape[0])];
        self.packed(name, shape, role, std, parts, bias);
    }

    /// A linear layer whose rows belong to several parts, each initialised under its own name.
    fn packed(&mut self, name: &str, shape: [usize; 2], role: Role, std: f64, parts: Vec<(String, usize)>, bias: bool) {
        self.push(format!("{name}.weight"), &shape, role, Init::Normal { std, parts });
        if bias {
            self.push(format!("{name}.bias"), &shape[..1], Role::Bias, Init::Zeros);
        }
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.push(format!("{name}.weight"), &[width], Role::Norm, Init::Ones);
        if self.norm_bias {
            self.push(format!("{name}.bias"), &[width], Role::Bias, Init::Zeros);
        }
    }

    fn adapters(&mut self, config: &ModelConfig, lora: &Lora) {
        for layer in 0..config.n_layer {
            for (_, module) in lora.adapted() {
                let path = lora.names.path(layer, module);
                let (_, rows, inputs) = module.extent(config);
                let bound = 1.0 / (inputs as f64).sqrt();
                let a = Init::Uniform { bound };
                self.push(format!("{path}.lora_A.weight"), &[lora.rank, inputs], Role::Adapter, a);
                self.push(format!("{path}.lora_B.weight"), &[rows, lora.rank], Role::Adapter, Init::Zeros);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_decay_as_matrices_do_and_parts_cover_their_rows() {
        let gpt2 = ModelConfig::gpt2(2, 4, 16, 11, 23);
        let llama =
            ModelConfig { mlp: Mlp::Swiglu, n_kv_head: 2, tie_embeddings: false, norm: Norm::Rmsnorm, ..gpt2.clone() };
        for config in [gpt2, llama] {
            for spec in parameter_specs(&config, None) {
                assert_eq!(spec.role.decays(), spec.shape.len() >= 2, "{spec:?}");
                let parts = spec.role.parts();
                assert!(parts.is_empty() || parts.iter().sum::<usize>() == spec.shape[0], "{spec:?}");
                if let Init::Normal { parts: named, .. } = &spec.init {
                    assert_eq!(named.iter().map(|(_, rows)| rows).sum::<usize>(), spec.shape[0], "{spec:?}");
                    assert!(parts.is_empty() || named.iter().map(|(_, rows)| *rows).eq(parts), "{spec:?}");
                }
            }
        }
    }
}
