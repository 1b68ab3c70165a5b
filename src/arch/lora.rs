//! LoRA: a model of which only corrections of low rank are trained (Hu et al. 2021), named and laid out as Python's
//! `peft` does.
//!
//! Each chosen linear layer computes `W x + (alpha / rank) B A x`. A starts as `torch.nn.Linear` starts (Kaiming uniform
//! with a = sqrt(5), which is uniform within 1 / sqrt(inputs)), B at zero, so that training begins at the model as it is.
//! The names are those of the modules in `transformers`: query, key and value of a Llama are three modules on parts of
//! our one packed layer, those of a GPT-2 one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::{Mlp, ModelConfig};
use crate::error::{Error, Result};
use crate::setting::{Problem, above_zero, below_one, count, one_or_many, one_or_many_schema};

/// The word for all linear layers of the blocks.
pub const ALL_LINEAR: &str = "all-linear";

/// LoRA: with `rank` set, the model stays as it is, and small corrections next to its linear layers are trained
/// (adapters). Checkpoints hold these alone, in the layout of Python's `peft`. It needs `model.init_from`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// The rank of the corrections.
    #[schemars(extend("x-default" = "not set: all parameters are trained"))]
    pub rank: Option<usize>,
    /// Corrections are multiplied with `alpha / rank`.
    #[schemars(extend("x-default" = "twice the rank"))]
    pub alpha: Option<f64>,
    /// Which layers, by the names that they have in `transformers`: `"q_proj"`, `"k_proj"`, `"v_proj"`, `"o_proj"`,
    /// `"gate_proj"`, `"up_proj"`, `"down_proj"` of a Llama; `"c_attn"`, `"c_proj"` (attention's and the feed-forward
    /// layer's), `"c_fc"` of a GPT-2; or `"all-linear"`.
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
    pub fn resolve(&self, names: &'static LoraModules) -> Result<Option<Lora>> {
        let Some(rank) = self.rank else { return Ok(None) };
        let known: Vec<&str> = names.modules.iter().map(|module| module.name).collect();
        if let Some(unknown) = self.targets.iter().find(|name| *name != ALL_LINEAR && !known.contains(&name.as_str())) {
            let mut listed = known.clone();
            listed.dedup();
            return Err(Error::usage(format!(
                "lora.targets: the model has no layer {unknown:?}; give {ALL_LINEAR:?} or some of {}",
                listed.join(", ")
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
        Ok(Some(Lora { names, rank, alpha, targets, dropout: self.dropout }))
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// The last part of its name.
    pub name: &'static str,
    /// What stands before it.
    pub parent: &'static str,
    /// The layer it belongs to.
    pub place: Place,
    /// Which part of the layer's rows it is: of queries, keys and values, or of gate and up; `None` for all of them.
    pub part: Option<usize>,
}

impl Module {
    /// A module.
    pub const fn of(parent: &'static str, name: &'static str, place: Place, part: Option<usize>) -> Module {
        Module { name, parent, place, part }
    }

    /// The first of the layer's rows that the module acts on, how many, and its inputs.
    pub fn extent(&self, config: &ModelConfig) -> (usize, usize, usize) {
        let (c, m) = (config.n_embd, config.mlp_dim);
        let (q, kv) = (config.attn_dim(), config.n_kv_head * config.head_dim);
        let (parts, inputs): (&[usize], usize) = match self.place {
            Place::Qkv => (&[q, kv, kv], c),
            Place::Proj => (&[c], q),
            Place::Up if config.mlp == Mlp::Swiglu => (&[m, m], c),
            Place::Up => (&[m], c),
            Place::Down => (&[c], m),
        };
        match self.part {
            Some(part) => (parts[..part].iter().sum(), parts[part], inputs),
            None => (0, parts.iter().sum(), inputs),
        }
    }
}

/// The modules of a kind of model in `transformers`: what its layers are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoraModules {
    /// What stands before the number of a block.
    pub blocks: &'static str,
    /// The modules of a block that can have an adapter, in the order in which they are used.
    pub modules: &'static [Module],
    /// Whether the layers' own weights are `[in, out]` (`fan_in_fan_out` of `peft`).
    pub fan_in_fan_out: bool,
}

impl LoraModules {
    /// The full name of a module of block `layer`, as `transformers` has it.
    pub fn path(&self, layer: usize, module: &Module) -> String {
        format!("{}.{layer}.{}.{}", self.blocks, module.parent, module.name)
    }
}

/// The adapters of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// What the layers are called.
    pub names: &'static LoraModules,
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
    /// The modules of a block that have an adapter, each with its place among all modules.
    pub fn adapted(&self) -> impl Iterator<Item = (usize, &'static Module)> {
        let targeted = |module: &Module| self.targets.iter().any(|target| target == module.name);
        self.names.modules.iter().enumerate().filter(move |(_, module)| targeted(module))
    }

    /// What corrections are multiplied with.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}
