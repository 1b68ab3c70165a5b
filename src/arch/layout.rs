//! The names and shapes of a model's parameters, in arena order.
//!
//! One list, stated once: the engine lays its arena out by it, the reference engine and the model folders look tensors up
//! by it. All linear weights are `[out, in]`. L layers, C `n_embd`, H heads, K key-value heads, D `head_dim`, M
//! `mlp_dim`, V vocabulary, T context.

use super::config::{Mlp, ModelConfig, Norm, NormPosition, Position};

/// A parameter on the host: its arena name, its shape, its values row-major.
pub type NamedParam = (String, Vec<usize>, Vec<f32>);

/// Every parameter's name and shape, in arena order.
///
/// `attn.qkv` packs all query heads, then all key heads, then all value heads; `mlp.gate_up` packs the gate's rows, then
/// the up projection's.
pub fn parameter_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (c, m, v) = (config.n_embd, config.mlp_dim, config.vocab_size);
    let norm_bias = config.norm == Norm::Layernorm && config.bias;
    let mut list: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: String, rows: usize, columns: Option<usize>, bias: bool| {
        let shape = columns.map_or(vec![rows], |columns| vec![rows, columns]);
        list.push((format!("{name}.weight"), shape));
        if bias {
            list.push((format!("{name}.bias"), vec![rows]));
        }
    };
    add("wte".into(), v, Some(c), false);
    if config.position == Position::Learned {
        add("wpe".into(), config.context_length, Some(c), false);
    }
    for i in 0..config.n_layer {
        add(format!("h.{i}.norm_1"), c, None, norm_bias);
        add(format!("h.{i}.attn.qkv"), config.qkv_dim(), Some(c), config.qkv_bias);
        add(format!("h.{i}.attn.proj"), c, Some(config.attn_dim()), config.bias);
        add(format!("h.{i}.norm_2"), c, None, norm_bias);
        match config.mlp {
            Mlp::Swiglu => add(format!("h.{i}.mlp.gate_up"), 2 * m, Some(c), config.bias),
            Mlp::Gelu | Mlp::GeluErf | Mlp::Relu2 => add(format!("h.{i}.mlp.up"), m, Some(c), config.bias),
        }
        add(format!("h.{i}.mlp.down"), c, Some(m), config.bias);
    }
    if config.norm_position == NormPosition::Pre {
        add("norm_f".into(), c, None, norm_bias);
    }
    if !config.tie_embeddings {
        add("lm_head".into(), v, Some(c), false);
    }
    list
}
