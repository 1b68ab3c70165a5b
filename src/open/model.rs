//! From a name to a model that is ready to compute.

use std::path::{Path, PathBuf};

use crate::arch::ModelConfig;
use crate::checkpoint::{ModelFolder, adapter, read_model_folder};
use crate::data::tokenizer::Tokenizer;
use crate::decode::cpu::{Options, Packed};
use crate::decode::{CacheFormat, Cpu, Decode, OnGpu, WeightFormat};
use crate::device::Device;
use crate::error::{Error, Result, ResultExt};
use crate::model::Gpt;
use crate::open::locate::locate;
use crate::open::tokenizer::{folder_tokenizer, tokenizer};
use crate::reference::{self, Reference};
use crate::tape::{Layout, Params};
use crate::train::config::Precision;
use crate::ui::Ui;

/// The number format of a model's weights when it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    Fp32,
    /// 32-bit floats whose products are rounded to 10 bits of mantissa (NVIDIA GPUs from Ampere on).
    Tf32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    Fp16,
    /// 8 bits in blocks of 32 with a scale.
    Q8_0,
    /// 4 bits in blocks of 32 with a scale.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// Taper's own engine.
    #[default]
    Native,
    /// The reference engine: candle, operator by operator, without a key-value cache.
    Reference,
}

/// How a model is opened. The default is fp32 on the CPU, with the tokenizer of its folder.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions<'a> {
    /// The name of a tokenizer that takes the place of the folder's own.
    pub tokenizer: Option<&'a str>,
    /// Where to compute.
    pub device: Device,
    /// The number format of the weights.
    pub dtype: Dtype,
    /// The number format of keys and values, on the CPU.
    pub cache: CacheFormat,
    /// What computes.
    pub engine: EngineKind,
}

impl Default for OpenOptions<'_> {
    fn default() -> Self {
        OpenOptions {
            tokenizer: None,
            device: Device::Cpu,
            dtype: Dtype::default(),
            cache: CacheFormat::default(),
            engine: EngineKind::default(),
        }
    }
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
    /// In which numbers [`Opened::decoder`] keeps weights on the CPU, and keys and values.
    pub format: WeightFormat,
    /// See `format`.
    pub cache: CacheFormat,
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

/// Opens a model, tokenizer included. What the user should know about how it was read is told to `ui`.
///
/// # Errors
/// `Usage` if there is no such model or the tokenizer does not fit it, or the device has not the number format; whatever is
/// wrong with its files.
pub fn open(model: &str, options: &OpenOptions<'_>, ui: &dyn Ui) -> Result<Opened> {
    let OpenOptions { device, dtype, cache, engine, .. } = *options;
    if engine == EngineKind::Reference && dtype != Dtype::Fp32 {
        return Err(Error::usage("the reference engine computes in fp32; leave --dtype out"));
    }
    let (format, precision) = (dtype.on_cpu(), dtype.on_gpu());
    if device == Device::Cpu && format.is_none() {
        return Err(Error::usage("--dtype tf32 needs a GPU; the CPU has fp32, bf16, fp16, q8_0 and q4_0"));
    }
    let Some(precision) = precision.or((device == Device::Cpu).then_some(Precision::Fp32)) else {
        return Err(Error::usage("--dtype q8_0 and q4_0 are for --device cpu; a GPU has fp32, tf32, bf16 and fp16"));
    };
    let (mut opened, notes) = open_on_cpu(model, options.tokenizer, ui)?;
    (opened.format, opened.cache) = (format.unwrap_or(WeightFormat::Fp32), cache);
    if let Some(gpu) = device.gpu()?.filter(|_| engine == EngineKind::Native) {
        gpu.driver().allow_tf32(precision == Precision::Tf32);
        opened.params = opened.params.to_device(device, precision.dtype())?;
    }
    tracing::debug!(folder = %opened.folder.display(), %device, ?dtype, ?cache, ?engine, "model opened");
    notes.iter().for_each(|note| ui.note(note));
    Ok(opened)
}

/// Opens a model in host memory, in fp32; `named` is the name of the tokenizer that takes the place of the folder's
/// own. Gives what the user should know besides.
fn open_on_cpu(model: &str, named: Option<&str>, ui: &dyn Ui) -> Result<(Opened, Vec<String>)> {
    let folder = locate(model, ui)?;
    // The tokenizer first: what is missing should show before gigabytes are read.
    let own = match named {
        Some(name) => tokenizer(name, ui)?,
        None => folder_tokenizer(&folder)?,
    };
    let ModelFolder { config, params, mut notes, .. } = read(&folder, ui)?;
    let (ids, rows) = (own.vocab_size(), config.vocab_size);
    if ids > rows {
        let message = format!("the tokenizer has {ids} ids, and the model's vocabulary only {rows}");
        match named {
            Some(name) => return Err(Error::usage(format!("{message}; {name:?} is not this model's tokenizer"))),
            None => notes.push(format!("{message}; a text that needs the others will be refused")),
        }
    }
    let model = Gpt::new(config)?;
    let params = model.with_values(params.iter().map(|(name, _, values)| (name.as_str(), values.as_slice())))?;
    let (format, cache) = (WeightFormat::Fp32, CacheFormat::Fp32);
    Ok((Opened { model, params, tokenizer: own, folder, format, cache }, notes))
}

/// Reads a model folder; adapters are merged into the model that they correct, which is fetched if it is on the Hub.
///
/// # Errors
/// As [`read_model_folder`] and [`adapter::read_adapter`].
pub fn read(folder: &Path, ui: &dyn Ui) -> Result<ModelFolder> {
    if !adapter::is_adapter(folder) {
        return read_model_folder(folder);
    }
    let found = adapter::read_adapter(folder)?;
    let base = locate(&found.base, ui).and_then(|base| read_model_folder(&base));
    let mut model =
        base.context(|| format!("the adapter in {} corrects the model {}", folder.display(), found.base))?;
    found.merge(folder, &mut model)?;
    model.notes.push(format!("the adapter in {} is merged into {}", folder.display(), found.base));
    Ok(model)
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
