//! The config of a run: one TOML file, complete, with no includes.
//!
//! Reading goes in two stages. First the text as given: it is parsed with places, and every key is checked by itself,
//! so that a typo fails on its own line with the nearest key named (`parse`, `names`); `--set` overrides join here
//! (`overrides`). Then the whole: numbers are checked against their ranges, contradictions between keys are rejected,
//! what this version cannot do is refused, and defaults that depend on other keys are filled in (`validate`).
//!
//! The structs of the sections live next to what they configure; [`Config`] only assembles them. Messages, the documentation
//! ([`docs`]) and the resolved file in the run folder are generated from those same structs ([`schema`]).

pub mod docs;
mod names;
mod overrides;
mod parse;
pub mod schema;
mod validate;
mod write;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::arch::config::ModelConfig;
use crate::arch::lora::LoraConfig;
use crate::arch::section::ModelSection;
use crate::checkpoint::config::CheckpointConfig;
use crate::data::config::DataConfig;
use crate::data::tokenizer::config::TokenizerConfig;
use crate::error::{Error, Result};
use crate::eval::config::EvalConfig;
use crate::hub::config::PushConfig;
use crate::optim::config::{OptimizerConfig, ScheduleConfig};
use crate::sample::config::SampleConfig;
use crate::train::config::{DistConfig, PrecisionConfig, RunConfig, StabilityConfig, TrainConfig};

pub use names::nearest;
pub use write::Difference;

/// Everything a run is asked to be.
///
/// ```
/// use taper::config::Config;
///
/// let text = "model = { n_layer = 2, n_head = 2, n_embd = 64 }\ndata.text = [\"my.txt\"]\ntrain.max_steps = 10";
/// let config = Config::from_str(text, "my.toml", &["optimizer.lr=1e-3".into()])?;
/// assert_eq!((config.model.n_layer, config.optimizer.lr), (Some(2), 1e-3));
///
/// let error = Config::from_str("model.n_layers = 2", "my.toml", &[]).unwrap_err().to_string();
/// assert!(error.contains("my.toml:1") && error.contains("n_layer"), "{error}");
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[run]`
    pub run: RunConfig,
    /// `[model]`
    pub model: ModelSection,
    /// `[tokenizer]`
    pub tokenizer: TokenizerConfig,
    /// `[data]`
    pub data: DataConfig,
    /// `[lora]`
    pub lora: LoraConfig,
    /// `[train]`
    pub train: TrainConfig,
    /// `[optimizer]`
    pub optimizer: OptimizerConfig,
    /// `[schedule]`
    pub schedule: ScheduleConfig,
    /// `[precision]`
    pub precision: PrecisionConfig,
    /// `[stability]`
    pub stability: StabilityConfig,
    /// `[eval]`
    pub eval: EvalConfig,
    /// `[checkpoint]`
    pub checkpoint: CheckpointConfig,
    /// `[dist]`
    pub dist: DistConfig,
    /// `[sample]`
    pub sample: SampleConfig,
    /// `[push]`
    pub push: PushConfig,
}

impl Config {
    /// Reads a config file and applies overrides of the form `section.key=value`. A run without a name is named after the
    /// file.
    ///
    /// # Errors
    /// `Io` where the file cannot be read; `Usage` for everything that is wrong in it, with the place.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Config> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let origin = path.display().to_string();
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
            Error::usage(format!("{origin}:{line}: this is not UTF-8 text, so it is not a config file"))
        })?;
        let mut config = Config::from_str(text, &origin, overrides)?;
        if config.run.name.is_none() {
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            config.run.name =
                stem.filter(|stem| RunConfig { name: Some(stem.clone()), ..RunConfig::default() }.validate().is_ok());
        }
        Ok(config)
    }

    /// Reads a config from text; `origin` is what messages call the text, usually its path. See [`Config::load`].
    ///
    /// # Errors
    /// `Usage`, with the place.
    pub fn from_str(text: &str, origin: &str, overrides: &[String]) -> Result<Config> {
        let source = parse::Source { origin, text };
        let mut written = parse::read(&source)?;
        overrides::apply(&mut written, overrides)?;
        let mut config = parse::assemble(&written, &source)?;
        validate::finish(&mut config).map_err(|problem| parse::locate(&problem, &written, &source))?;
        Ok(config)
    }

    /// The run folder: `run.dir`, else `runs/` and the name.
    pub fn run_dir(&self) -> PathBuf {
        match &self.run.dir {
            Some(dir) => dir.into(),
            None => Path::new("runs").join(self.run.name.as_deref().unwrap_or("unnamed")),
        }
    }

    /// The model's shape for a tokenizer of `tokenizer_vocab` tokens; `init` is the shape found in `model.init_from`.
    /// Every key of the section is explicit afterwards.
    ///
    /// # Errors
    /// See [`ModelSection::resolve`].
    pub fn resolve_model(&mut self, tokenizer_vocab: usize, init: Option<&ModelConfig>) -> Result<ModelConfig> {
        let shape = self.model.resolve(tokenizer_vocab, init)?;
        self.model.set(&shape);
        Ok(shape)
    }

    /// Checks, once the micro-batch is known, that `dist.lanes` divides the micro-batches of a step.
    ///
    /// # Errors
    /// `Usage`.
    pub fn check_lanes(&self) -> Result<()> {
        Ok(validate::check_lanes(self)?)
    }

    /// What is allowed but probably not meant, one sentence each, for the person who starts the run.
    pub fn notes(&self) -> Vec<String> {
        validate::notes(self)
    }
}
