//! The GPT family on candle: logits, loss and every gradient, for every option of [`ModelConfig`].
//!
//! It follows the contract of `arch::layout` literally: parameters by arena name, linear weights `[out, in]`, packed
//! query-key-value and gate-up projections. Dropout is not its business (an oracle has nothing random in it).

use super::{explain, ops};
use crate::arch::config::{Mlp, ModelConfig, Norm, NormPosition, Position};
use crate::arch::layout::{NamedParam, parameter_shapes};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use std::collections::BTreeMap;

/// The arithmetic of the reference engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// float32, for training with `--engine reference`.
    F32,
    /// float64, the oracle.
    F64,
}

impl Precision {
    fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::F64 => DType::F64,
        }
    }
}

/// A GPT whose parameters are candle variables.
pub struct Reference {
    config: ModelConfig,
    device: Device,
    names: Vec<String>,
    variables: BTreeMap<String, Var>,
}

impl Reference {
    /// A model of `config`'s shape with the given parameters: (arena name, shape, values), in any order.
    ///
    /// # Errors
    /// `Usage` for an invalid config or a dropout above 0; `Training` for a parameter that is missing, unknown, or of the
    /// wrong shape.
    pub fn new<'a>(
        config: &ModelConfig,
        parameters: impl IntoIterator<Item = (&'a str, &'a [usize], &'a [f32])>,
        precision: Precision,
    ) -> Result<Reference> {
        config.validate()?;
        if config.dropout != 0.0 {
            return Err(Error::usage(format!(
                "the reference engine has no dropout, and model.dropout is {}; set model.dropout = 0",
                config.dropout
            )));
        }
        let shapes: BTreeMap<String, Vec<usize>> = parameter_shapes(config).into_iter().collect();
        let (device, dtype) = (Device::Cpu, precision.dtype());
        let mut variables = BTreeMap::new();
        for (name, shape, values) in parameters {
            let Some(expected) = shapes.get(name) else {
                return Err(Error::Training(format!("the model has no parameter {name}")));
            };
            if expected != shape || values.len() != shape.iter().product::<usize>() {
                return Err(Error::Training(format!(
                    "parameter {name} has shape {shape:?} and {} values; the model needs {expected:?}",
                    values.len()
                )));
            }
            let tensor = explain(Tensor::from_slice(values, shape, &device).and_then(|t| t.to_dtype(dtype)))?;
            if variables.insert(name.to_string(), explain(Var::from_tensor(&tensor))?).is_some() {
                return Err(Error::Training(format!("parameter {name} is given twice")));
            }
        }
        let names: Vec<String> = parameter_shapes(config).into_iter().map(|(name, _)| name).collect();
        if let Some(missing) = names.iter().find(|name| !variables.contains_key(*name)) {
            return Err(Error::Training(format!("parameter {missing} is missing")));
        }
        Ok(Reference { config: config.clone(), device, names, variables })
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The parameters in arena order: name, shape, values rounded to float32.
    ///
    /// # Errors
    /// Only candle's own.
    pub fn parameters(&self) -> Result<Vec<NamedParam>> {
        self.variables()
            .map(|(name, variable)| {
                let values = variable.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1());
                Ok((name.to_string(), variable.dims().to_vec(), explain(values)?))
            })
            .collect()
    }

    /// The logits `[B, T, V]` of `tokens` `[B, T]`, widened to float64.
    ///
    /// # Errors
    /// `Training` for a token out of the vocabulary, a sequence longer than the context, or a wrong number of tokens.
    pub fn logits(&self, tokens: &[u32], b: usize, t: usize) -> Result<Vec<f64>> {
        self.check(tokens, b, t, "token")?;
        explain(self.forward(tokens, b, t).and_then(|logits| to_f64(&logits)))
    }

    /// The mean cross-entropy in nats of `targets` `[B, T]` after `tokens` `[B, T]`.
    ///
    /// # Errors
    /// As [`Reference::logits`].
    pub fn loss(&self, tokens: &[u32], targets: &[u32], b: usize, t: usize) -> Result<f64> {
        let loss = self.loss_tensor(tokens, targets, b, t)?;
        explain(loss.to_dtype(DType::F64).and_then(|l| l.to_scalar()))
    }

    /// The loss, as [`Reference::loss`], and its gradient by every parameter, by arena name, row-major.
    ///
    /// # Errors
    /// As [`Reference::logits`].
    pub fn loss_and_grads(
        &self,
        tokens: &[u32],
        targets: &[u32],
        b: usize,
        t: usize,
    ) -> Result<(f64, BTreeMap<String, Vec<f64>>)> {
        let (loss, tensors) = self.gradient_tensors(tokens, targets, b, t)?;
        let mut grads = BTreeMap::new();
        for (name, grad) in self.names.iter().zip(&tensors) {
            grads.insert(name.clone(), explain(to_f64(grad))?);
        }
        Ok((loss, grads))
    }

    /// The parameters as variables, in arena order.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.names.iter().map(|name| (name.as_str(), &self.variables[name]))
    }

    /// The loss and the gradients in arena order, in the model's dtype.
    pub(super) fn gradient_tensors(
        &self,
        tokens: &[u32],
        targets: &[u32],
        b: usize,
        t: usize,
    ) -> Result<(f64, Vec<Tensor>)> {
        let loss = self.loss_tensor(tokens, targets, b, t)?;
        let store = explain(loss.backward())?;
        let grads = self
            .variables()
            .map(|(name, variable)| match store.get(variable) {
                Some(grad) => Ok(grad.clone()),
                None => Err(Error::Training(format!("parameter {name} got no gradient"))),
            })
            .collect::<Result<Vec<_>>>()?;
        Ok((explain(loss.to_dtype(DType::F64).and_then(|l| l.to_scalar()))?, grads))
    }

    fn loss_tensor(&self, tokens: &[u32], targets: &[u32], b: usize, t: usize) -> Result<Tensor> {
        self.check(tokens, b, t, "token")?;
        self.check(targets, b, t, "target")?;
        let compute = || {
            let logits = self.forward(tokens, b, t)?.reshape((b * t, self.config.vocab_size))?;
            ops::cross_entropy(&logits, &Tensor::from_slice(targets, b * t, &self.device)?)
        };
        explain(compute())
    }

    fn check(&self, ids: &[u32], b: usize, t: usize, what: &str) -> Result<()> {
        let (v, context) = (self.config.vocab_size, self.config.context_length);
        if b == 0 || t == 0 || ids.len() != b * t {
            return Err(Error::Training(format!("{} {what}s cannot be a batch of {b} sequences of {t}", ids.len())));
        }
        if t > context {
            return Err(Error::Training(format!("a sequence of {t} is longer than the model's context of {context}")));
        }
        match ids.iter().position(|&id| id as usize >= v) {
            None => Ok(()),
            Some(at) => Err(Error::Training(format!(
                "{what} {at} is {}, beyond the vocabulary of {v} (ids 0 to {})",
                ids[at],
                v - 1
            ))),
        }
    }

    fn forward(&self, tokens: &[u32], b: usize, t: usize) -> candle_core::Result<Tensor> {
        let config = &self.config;
        let mut x = ops::embedding(self.weight("wte"), &Tensor::from_slice(tokens, (b, t), &self.device)?)?;
        if config.position == Position::Learned {
            x = x.broadcast_add(&self.weight("wpe").narrow(0, 0, t)?)?;
        }
        for i in 0..config.n_layer {
            let (norm_1, norm_2) = (format!("h.{i}.norm_1"), format!("h.{i}.norm_2"));
            x = match config.norm_position {
                NormPosition::Pre => {
                    let x = (&x + self.attention(i, &self.norm(&norm_1, &x)?)?)?;
                    (&x + self.mlp(i, &self.norm(&norm_2, &x)?)?)?
                }
                NormPosition::Post => {
                    let x = self.norm(&norm_1, &(&x + self.attention(i, &x)?)?)?;
                    self.norm(&norm_2, &(&x + self.mlp(i, &x)?)?)?
                }
            };
        }
        if config.norm_position == NormPosition::Pre {
            x = self.norm("norm_f", &x)?;
        }
        self.linear(if config.tie_embeddings { "wte" } else { "lm_head" }, &x)
    }

    fn attention(&self, layer: usize, x: &Tensor) -> candle_core::Result<Tensor> {
        let config = &self.config;
        let qkv = self.linear(&format!("h.{layer}.attn.qkv"), x)?;
        let (mut q, mut k, v) = ops::split_qkv(&qkv, config.n_head, config.n_kv_head, config.head_dim)?;
        if config.position == Position::Rope {
            q = ops::rope(&q, config.rope_theta, 0)?;
            k = ops::rope(&k, config.rope_theta, 0)?;
        }
        let y = ops::merge_heads(&ops::causal_attention(&q, &k, &v)?)?;
        self.linear(&format!("h.{layer}.attn.proj"), &y)
    }

    fn mlp(&self, layer: usize, x: &Tensor) -> candle_core::Result<Tensor> {
        let up = || self.linear(&format!("h.{layer}.mlp.up"), x);
        let hidden = match self.config.mlp {
            Mlp::Gelu => ops::gelu(&up()?)?,
            Mlp::GeluErf => ops::gelu_erf(&up()?)?,
            Mlp::Relu2 => ops::relu2(&up()?)?,
            Mlp::Swiglu => ops::swiglu(&self.linear(&format!("h.{layer}.mlp.gate_up"), x)?)?,
        };
        self.linear(&format!("h.{layer}.mlp.down"), &hidden)
    }

    fn norm(&self, name: &str, x: &Tensor) -> candle_core::Result<Tensor> {
        match self.config.norm {
            Norm::Layernorm => ops::layernorm(x, self.weight(name), self.bias(name), self.config.norm_eps),
            Norm::Rmsnorm => ops::rmsnorm(x, self.weight(name), self.config.norm_eps),
        }
    }

    fn linear(&self, name: &str, x: &Tensor) -> candle_core::Result<Tensor> {
        ops::linear(x, self.weight(name), self.bias(name))
    }

    /// The constructor checked that every parameter of the layout is there.
    fn weight(&self, name: &str) -> &Tensor {
        self.variables[&format!("{name}.weight")].as_tensor()
    }

    fn bias(&self, name: &str) -> Option<&Tensor> {
        self.variables.get(&format!("{name}.bias")).map(|v| v.as_tensor())
    }
}

fn to_f64(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}
