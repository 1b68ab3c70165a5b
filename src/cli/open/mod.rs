//! From what a user calls a model to the model itself: `MODEL`, `--tokenizer` and `--device` mean the same everywhere.
//!
//! `MODEL` is a model folder (a checkpoint, or one that transformers saved), or a run folder, which stands for its best
//! checkpoint, else its newest; or `OWNER/NAME`, a model on the Hub, which is fetched into the cache.

use std::path::{Path, PathBuf};

use crate::arch::ModelConfig;
use crate::checkpoint::store::{CHECKPOINTS, Store};
use crate::checkpoint::{ModelFolder, adapter, read_model_folder};
use crate::cli::push::pull::Transfer;
use crate::data::config::DataConfig;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokenizer::config::TokenizerConfig;
use crate::decode::cpu::{Options, Packed};
use crate::decode::{CacheFormat, Cpu, Decode, OnGpu, WeightFormat};
use crate::device::Device;
use crate::error::{Error, Result, ResultExt};
use crate::hub::{self, Client, Pulled, Repo, Selection, Settings};
use crate::model::Gpt;
use crate::reference::{self, Reference};
use crate::tape::{Layout, Params};
use crate::train::config::Precision;

/// Which model, with which tokenizer, on which device: the arguments that sample and eval share.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArgs {
    /// A model folder, a run folder (its best checkpoint, else its newest), or OWNER/NAME on the Hub.
    pub model: String,
    /// The tokenizer: gpt2, bytes, a tokenizer.json, or a folder that holds one [default: the model folder's].
    #[arg(long, value_name = "NAME|FILE")]
    pub tokenizer: Option<String>,
    /// Where to compute: cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// The number format of the weights [default: fp32, which is exact]. tf32 needs a GPU; q8_0 and q4_0 the CPU.
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub dtype: Option<Dtype>,
    /// What computes: taper's own engine, or the same model by the book on candle (slow).
    #[arg(long, value_enum, default_value_t = Engine::Native)]
    pub engine: Engine,
}

/// The number format of a model's weights when it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// 32-bit floats.
    Fp32,
    /// 32-bit floats whose products are rounded to 10 bits of mantissa (NVIDIA GPUs from Ampere on).
    Tf32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    Fp16,
    /// 8 bits in blocks of 32 with a scale.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits in blocks of 32 with a scale.
    #[value(name = "q4_0")]
    Q4_0,
}

impl Dtype {
    /// What a GPU makes of it, if it can.
    fn on_gpu(self) -> Option<Precision> {
        match self {
            Dtype::Fp32 => Some(Precision::Fp32),
            Dtype::Tf32 => Some(Precision::Tf32),
            Dtype::Bf16 => Some(Precision::Bf16),
            Dtype::Fp16 => Some(Precision::Fp16),
            Dtype::Q8_0 | Dtype::Q4_0 => None,
        }
    }

    /// What the CPU makes of it, if it can.
    fn on_cpu(self) -> Option<WeightFormat> {
        match self {
            Dtype::Fp32 => Some(WeightFormat::Fp32),
            Dtype::Tf32 => None,
            Dtype::Bf16 => Some(WeightFormat::Bf16),
            Dtype::Fp16 => Some(WeightFormat::Fp16),
            Dtype::Q8_0 => Some(WeightFormat::Q8_0),
            Dtype::Q4_0 => Some(WeightFormat::Q4_0),
        }
    }
}

/// What computes a model's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// Taper's own engine.
    Native,
    /// The reference engine: candle, operator by operator, without a key-value cache.
    Reference,
}

/// A model that is ready for use.
#[derive(Debug)]
pub struct Opened {
    /// The model's shape and layers.
    pub model: Gpt,
    /// Its weights.
    pub params: Params,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The folder it was read from.
    pub folder: PathBuf,
    /// What the user should know about how it was read.
    pub notes: Vec<String>,
    /// In which numbers [`Opened::decoder`] keeps weights on the CPU, and keys and values.
    pub format: WeightFormat,
    /// See `format`.
    pub cache: CacheFormat,
}

impl ModelArgs {
    /// Opens the model, tokenizer included, and prints what the user should know to standard error.
    ///
    /// # Errors
    /// `Usage` if there is no such model or the tokenizer does not fit it, or the device has not the number format; whatever is
    /// wrong with its files.
    pub fn open(&self) -> Result<Opened> {
        let device = Device::parse(&self.device)?;
        let dtype = self.dtype.unwrap_or(Dtype::Fp32);
        if self.engine == Engine::Reference && dtype != Dtype::Fp32 {
            return Err(Error::usage("the reference engine computes in fp32; leave --dtype out"));
        }
        let (format, precision) = (dtype.on_cpu(), dtype.on_gpu());
        if device == Device::Cpu && format.is_none() {
            return Err(Error::usage("--dtype tf32 needs a GPU; the CPU has fp32, bf16, fp16, q8_0 and q4_0"));
        }
        let Some(precision) = precision.or((device == Device::Cpu).then_some(Precision::Fp32)) else {
            return Err(Error::usage(
                "--dtype q8_0 and q4_0 are for --device cpu; a GPU has fp32, tf32, bf16 and fp16",
            ));
        };
        let mut opened = open(&self.model, self.tokenizer.as_deref())?;
        opened.format = format.unwrap_or(WeightFormat::Fp32);
        if let Some(gpu) = device.gpu()?.filter(|_| self.engine == Engine::Native) {
            gpu.driver().allow_tf32(precision == Precision::Tf32);
            opened.params = opened.params.to_device(device, precision.dtype())?;
        }
        for note in &opened.notes {
            eprintln!("note: {note}");
        }
        Ok(opened)
    }
}

impl Opened {
    /// The engine that computes the logits of up to `slots` sequences side by side, each of up to `capacity` tokens (at most
    /// the context). The weights move into it, so that a model is in memory once: there is one engine for each opened model.
    ///
    /// # Errors
    /// If the weights are gone already, or memory cannot be had.
    pub fn decoder(&mut self, slots: usize, capacity: usize) -> Result<Box<dyn Decode>> {
        if self.params.flat().device() == Device::Cpu {
            return Ok(Box::new(self.cpu_decoder(slots, capacity)?));
        }
        let params = self.take_params()?;
        Ok(Box::new(OnGpu::new(Gpt::new(self.model.config().clone())?, params, slots, capacity)?))
    }

    /// [`Opened::decoder`] of a model in host memory, as what it is.
    ///
    /// # Errors
    /// As [`Opened::decoder`].
    pub fn cpu_decoder(&mut self, slots: usize, capacity: usize) -> Result<Cpu> {
        let params = self.take_params()?;
        let packed = Packed::new(self.model.config(), &params, self.format)?;
        Ok(Cpu::new(&packed, Options { cache: self.cache, ..Options::new(slots, capacity) }))
    }

    fn take_params(&mut self) -> Result<Params> {
        if self.params.layout() != self.model.layout() {
            return Err(Error::Training("the weights of this model are in another engine already".into()));
        }
        Ok(std::mem::replace(&mut self.params, Params::zeros(Layout::default(), Device::Cpu)?))
    }
}

/// Opens a model on the CPU; `tokenizer` takes the place of the folder's own.
///
/// # Errors
/// As [`ModelArgs::open`].
pub fn open(model: &str, tokenizer: Option<&str>) -> Result<Opened> {
    let folder = locate(model)?;
    // The tokenizer first: what is missing should show before gigabytes are read.
    let own = match tokenizer {
        Some(name) => self::tokenizer(name)?,
        None => folder_tokenizer(&folder)?,
    };
    let ModelFolder { config, params, mut notes, .. } = read(&folder)?;
    let (ids, rows) = (own.vocab_size(), config.vocab_size);
    if ids > rows {
        let message = format!("the tokenizer has {ids} ids, and the model's vocabulary only {rows}");
        match tokenizer {
            Some(name) => return Err(Error::usage(format!("{message}; {name:?} is not this model's tokenizer"))),
            None => notes.push(format!("{message}; a text that needs the others will be refused")),
        }
    }
    let model = Gpt::new(config)?;
    let params = model.with_values(params.iter().map(|(name, _, values)| (name.as_str(), values.as_slice())))?;
    let (format, cache) = (WeightFormat::Fp32, CacheFormat::Fp32);
    Ok(Opened { model, params, tokenizer: own, folder, notes, format, cache })
}

/// Reads a model folder; adapters are merged into the model that they correct, which is fetched if it is on the Hub.
///
/// # Errors
/// As [`read_model_folder`] and [`adapter::read_adapter`].
pub fn read(folder: &Path) -> Result<ModelFolder> {
    if !adapter::is_adapter(folder) {
        return read_model_folder(folder);
    }
    let found = adapter::read_adapter(folder)?;
    let base = locate(&found.base).and_then(|base| read_model_folder(&base));
    let mut model =
        base.context(|| format!("the adapter in {} corrects the model {}", folder.display(), found.base))?;
    found.merge(folder, &mut model)?;
    model.notes.push(format!("the adapter in {} is merged into {}", folder.display(), found.base));
    Ok(model)
}

/// The model folder that `model` stands for; a model on the Hub is fetched first.
///
/// # Errors
/// `Usage` if it is no model folder, no run with a checkpoint; as [`hub::pull`] if it is `OWNER/NAME`.
pub fn locate(model: &str) -> Result<PathBuf> {
    let found = hub::resolve(model, &Transfer::default())?;
    locate_here(found.to_str().unwrap_or(model))
}

/// The tokenizer that a name stands for: gpt2, bytes, a file, a folder, a run, or `OWNER/NAME` on the Hub.
///
/// # Errors
/// As [`Tokenizer::from_name_or_path`], and as [`hub::pull`].
pub fn tokenizer(name: &str) -> Result<Tokenizer> {
    let found = hub::resolve_tokenizer(name, &Transfer::default())?;
    let found = match found.join(CHECKPOINTS).is_dir() {
        true => locate_here(name)?,
        false => found,
    };
    Tokenizer::from_name_or_path(found.to_str().unwrap_or(name))
}

/// The `[tokenizer]` section with a path on this machine in place of `OWNER/NAME`.
pub(crate) fn tokenizer_section(section: &TokenizerConfig) -> Result<TokenizerConfig> {
    let mut section = section.clone();
    if let Some(path) = &section.path {
        let found = hub::resolve_tokenizer(path, &Transfer::default())?;
        let found = if found.join(CHECKPOINTS).is_dir() { locate_here(path)? } else { found };
        section.path = Some(found.to_str().unwrap_or(path).to_string());
    }
    Ok(section)
}

/// The `[data]` section with files on this machine in place of data sets on the Hub, which are fetched into the cache:
/// `text` is the training split, `val` the validation split, `shards` every `.bin` file.
///
/// # Errors
/// As [`hub::pull_dataset`]; `Usage` for a path that is not there.
pub(crate) fn data_section(section: &DataConfig) -> Result<DataConfig> {
    let mut section = section.clone();
    if let Some(name) = &section.shards {
        if let Some(folder) = shards_on_hub(name)? {
            section.shards = Some(folder);
        }
        return Ok(section);
    }
    section.text = data_inputs(&section.text, "train")?;
    section.val = data_inputs(&section.val, "validation")?;
    Ok(section)
}

/// Inputs with the files of a split in place of `OWNER/NAME`, a data set on the Hub.
///
/// # Errors
/// As [`data_section`].
pub(crate) fn data_inputs(inputs: &[String], split: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for input in inputs {
        if let Some(error) = hub::no_such_path(input, "data set", "taper data pull") {
            return Err(error);
        }
        if !hub::names_hub(input) {
            all.push(input.clone());
            continue;
        }
        let selection = Selection { split: split.into(), ..Selection::default() };
        let pulled = dataset_on_hub(input, &selection)?;
        all.extend(pulled.files.iter().map(|file| pulled.folder.join(file).to_string_lossy().into_owned()));
    }
    Ok(all)
}

/// The folder of token shards that a name on the Hub stands for; `None` for a path.
fn shards_on_hub(name: &str) -> Result<Option<String>> {
    if let Some(error) = hub::no_such_path(name, "data set", "taper data pull") {
        return Err(error);
    }
    if !hub::names_hub(name) {
        return Ok(None);
    }
    let selection = Selection { files: Some("**/*.bin".into()), ..Selection::default() };
    let pulled = dataset_on_hub(name, &selection)?;
    let first = pulled.files.first().map(|file| pulled.folder.join(file));
    Ok(first.and_then(|file| Some(file.parent()?.to_string_lossy().into_owned())))
}

fn dataset_on_hub(name: &str, selection: &Selection) -> Result<Pulled> {
    let (client, bar) = (Client::new(Settings::from_env()?), Transfer::default());
    hub::pull_dataset(&client, &Repo::dataset(name)?, selection, &bar).map_err(|error| match error {
        Error::Hub(message) => Error::Hub(format!("there is no file or folder {name} here, and {message}")),
        error => error,
    })
}

/// [`locate`] without the Hub.
///
/// # Errors
/// `Usage` if it is no model folder and no run with a checkpoint.
pub fn locate_here(model: &str) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.join("config.json").is_file() || adapter::is_adapter(path) {
        return Ok(path.to_path_buf());
    }
    let run = path.is_dir().then(|| Store::of_run(path));
    if let Some(store) = &run
        && let Some(step) = store.pointed("best").or(store.steps()?.last().copied())
    {
        return Ok(store.path(step));
    }
    Err(Error::usage(match run {
        Some(_) if path.join(CHECKPOINTS).is_dir() || path.join("config.toml").is_file() => format!(
            "the run {model} has no checkpoint yet; go on with it by `taper train {} --resume`",
            path.join("config.toml").display()
        ),
        Some(_) => format!(
            "{model} is not a model: it has neither a config.json (a model folder) nor checkpoints/ (a run folder)"
        ),
        None if path.is_file() => format!("{model} is a file; name the model folder that holds it"),
        None => format!("there is no folder {model}; give a model folder or a run folder such as runs/quickstart"),
    }))
}

/// The weights as the reference engine takes them.
///
/// # Errors
/// If memory cannot be had.
pub fn reference(config: &ModelConfig, params: &Params, precision: reference::Precision) -> Result<Reference> {
    // Dropout belongs to training.
    let config = ModelConfig { dropout: 0.0, ..config.clone() };
    let values = params.flat().f32();
    let infos = params.layout().infos().iter();
    Reference::new(&config, infos.map(|i| (i.name.as_str(), i.shape.as_slice(), &values[i.range()])), precision)
}

fn folder_tokenizer(folder: &Path) -> Result<Tokenizer> {
    let has = |name: &str| folder.join(name).is_file();
    if has("tokenizer.json") || (has("vocab.json") && has("merges.txt")) {
        return Tokenizer::from_file(folder);
    }
    Err(Error::usage(format!(
        "{} has no tokenizer.json (nor vocab.json with merges.txt), so its tokens mean nothing; say which tokenizer it was trained with: \
         --tokenizer gpt2, bytes, or a tokenizer.json",
        folder.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_model_is_answered_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| locate(&path.to_string_lossy()).unwrap_err().to_string();
        assert!(told(folder.path()).contains("neither a config.json"));
        std::fs::create_dir(folder.path().join(CHECKPOINTS)).unwrap();
        assert!(told(folder.path()).contains("no checkpoint yet"));
        assert!(locate("runs/x/y").unwrap_err().to_string().contains("no folder"));
        assert!(told(Path::new("Cargo.toml")).contains("is a file"));
    }

    #[test]
    fn a_run_stands_for_its_best_checkpoint_else_its_newest() {
        let run = tempfile::tempdir().unwrap();
        let store = Store::of_run(run.path());
        for step in [5, 10] {
            store
                .save(step, |folder| {
                    std::fs::write(folder.join("config.json"), "{}").map_err(Error::io("write", folder))
                })
                .unwrap();
        }
        let name = run.path().to_string_lossy();
        assert_eq!(locate(&name).unwrap(), store.path(10));
        store.point("best", 5).unwrap();
        assert_eq!(locate(&name).unwrap(), store.path(5));
        assert_eq!(locate(&store.path(10).to_string_lossy()).unwrap(), store.path(10));
    }
}
