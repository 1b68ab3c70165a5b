//! LoRA: a model of which only corrections of low rank are trained (Hu et al. 2021), named and laid out as Python's `peft` does.
//!
//! Each chosen linear layer computes `W x + (alpha / rank) B A x`. A starts as `torch.nn.Linear` starts (Kaiming uniform
//! with a = sqrt(5), which is uniform within 1 / sqrt(inputs)), B at zero, so that training begins at the model as it is.
//! The names are those of the modules in `transformers`: query, key and value of a Llama are three modules on parts of
//! our one packed layer, those of a GPT-2 one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::ModelConfig;
use crate::error::{Error, Result};
use crate::setting::{Problem, above_zero, below_one, count, one_or_many, one_or_many_schema};

/// The word for all linear layers of the blocks.
pub const ALL_LINEAR: &str = "all-linear";

/// LoRA: with `rank` set, the model stays as it is, and small corrections beside its linear layers are trained (adapters). Checkpoints
/// hold these alone, in the layout of Python's `peft`. It needs `model.init_from`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// The rank of the corrections.
    #[schemars(extend("x-default" = "not set: all parameters are trained"))]
    pub rank: Option<usize>,
    /// Corrections are multiplied with `alpha / rank`.
    #[schemars(extend("x-default" = "twice the rank"))]
    pub alpha: Option<f64>,
    /// Which layers, by the names that they have in `transformers`: `"q_proj"`, `"k_proj"`, `"v_proj"`, `"o_proj"`, `"gate_proj"`,
    /// `"up_proj"`, `"down_proj"` of a Llama; `"c_attn"`, `"c_proj"` (attention's and the feed-forward layer's), `"c_fc"` of a
    /// GPT-2; or `"all-linear"`.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(schema_with = "one_or_many_schema", extend("x-default" = "[\"all-linear\"]"))]
    pub targets: Vec<String>,
    /// The probability of dropping what an adapter reads.
    pub dropout: f64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig { rank: None, alpha: None, targets: vec![ALL_LINEAR.into()], dropout: 0.0 }
    }
}

impl LoraConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        if let Some(rank) = self.rank {
            count("lora.rank", rank as u64)?;
        }
        if let Some(alpha) = self.alpha {
            above_zero("lora.alpha", alpha)?;
        }
        below_one("lora.dropout", self.dropout)?;
        match self.targets.is_empty() {
            true => Err(Problem::new("lora.targets", "lora.targets is empty; write \"all-linear\" or names of layers")),
            false => Ok(()),
        }
    }

    /// The adapters of a model, if there are to be any.
    ///
    /// # Errors
    /// `Usage` for a target that the model has not.
    pub fn resolve(&self, family: Family) -> Result<Option<Lora>> {
        let Some(rank) = self.rank else { return Ok(None) };
        let known: Vec<&str> = family.modules().iter().map(|module| module.name).collect();
        if let Some(unknown) = self.targets.iter().find(|name| *name != ALL_LINEAR && !known.contains(&name.as_str())) {
            let mut names = known.clone();
            names.dedup();
            return Err(Error::usage(format!(
                "lora.targets: the model has no layer {unknown:?}; give {ALL_LINEAR:?} or some of {}",
                names.join(", ")
            )));
        }
        let all = self.targets.iter().any(|name| name == ALL_LINEAR);
        let mut targets: Vec<String> = Vec::new();
        for name in known {
            if (all || self.targets.iter().any(|target| target == name)) && !targets.iter().any(|target| target == name)
            {
                targets.push(name.into());
            }
        }
        let alpha = self.alpha.unwrap_or(2.0 * rank as f64);
        Ok(Some(Lora { family, rank, alpha, targets, dropout: self.dropout }))
    }
}

/// Whose names the layers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `GPT2LMHeadModel`.
    Gpt2,
    /// `LlamaForCausalLM`.
    Llama,
}

/// Which of a block's linear layers a module is, or is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To queries, keys and values.
    Qkv,
    /// Back from attention.
    Proj,
    /// To the inner width.
    Up,
    /// Back from the inner width.
    Down,
}

/// A module of a block that can have an adapter.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// The last part of its name.
    pub name: &'static str,
    /// What stands before it.
    pub parent: &'static str,
    /// The layer it belongs to.
    pub place: Place,
    /// Which part of the layer's rows it is: of queries, keys and values, or of gate and up.
    pub part: usize,
}

impl Family {
    /// The modules of a block that can have an adapter, in the order in which they are used.
    pub fn modules(self) -> &'static [Module] {
        const fn of(parent: &'static str, name: &'static str, place: Place, part: usize) -> Module {
            Module { name, parent, place, part }
        }
        match self {
            Family::Gpt2 => {
                const {
                    &[
                        of("attn", "c_attn", Place::Qkv, 0),
                        of("attn", "c_proj", Place::Proj, 0),
                        of("mlp", "c_fc", Place::Up, 0),
                        of("mlp", "c_proj", Place::Down, 0),
                    ]
                }
            }
            Family::Llama => {
                const {
                    &[
                        of("self_attn", "q_proj", Place::Qkv, 0),
                        of("self_attn", "k_proj", Place::Qkv, 1),
                        of("self_attn", "v_proj", Place::Qkv, 2),
                        of("self_attn", "o_proj", Place::Proj, 0),
                        of("mlp", "gate_proj", Place::Up, 0),
                        of("mlp", "up_proj", Place::Up, 1),
                        of("mlp", "down_proj", Place::Down, 0),
                    ]
                }
            }
        }
    }

    /// The full name of a module of block `layer`, as `transformers` has it.
    pub fn path(self, layer: usize, module: &Module) -> String {
        let blocks = match self {
            Family::Gpt2 => "transformer.h",
            Family::Llama => "model.layers",
        };
        format!("{blocks}.{layer}.{}.{}", module.parent, module.name)
    }

    /// The first of the layer's rows that a module acts on, how many, and its inputs.
    pub fn extent(self, config: &ModelConfig, module: &Module) -> (usize, usize, usize) {
        let (c, m) = (config.n_embd, config.mlp_dim);
        match (self, module.place) {
            (Family::Gpt2, Place::Qkv) => (0, config.qkv_dim(), c),
            (Family::Llama, Place::Qkv) => {
                let (q, kv) = (config.attn_dim(), config.n_kv_head * config.head_dim);
                [(0, q, c), (q, kv, c), (q + kv, kv, c)][module.part]
            }
            (_, Place::Proj) => (0, c, config.attn_dim()),
            (_, Place::Up) => (module.part * m, m, c),
            (_, Place::Down) => (0, c, m),
        }
    }
}

/// The adapters of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Whose names the layers have.
    pub family: Family,
    /// The rank.
    pub rank: usize,
    /// Corrections are multiplied with `alpha / rank`.
    pub alpha: f64,
    /// The modules' names.
    pub targets: Vec<String>,
    /// The probability of dropping what an adapter reads.
    pub dropout: f64,
}

impl Lora {
    /// What corrections are multiplied with.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}
