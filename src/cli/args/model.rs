//! `MODEL`, `--tokenizer`, `--device` and the number formats: they mean the same in every command that runs a model.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::cli::ui::Terminal;
use crate::decode::CacheFormat;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::open::{Dtype, EngineKind, OpenOptions, Opened, open};

/// Which model, with which tokenizer, on which device, in which numbers.
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
    /// The number format of cached keys and values, on the CPU [default: fp32].
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub cache_dtype: Option<CacheFormat>,
    /// What computes: taper's own engine, or the same model by the book on candle (slow).
    #[arg(long, value_enum, default_value_t = EngineKind::Native)]
    pub engine: EngineKind,
}

impl ModelArgs {
    /// Opens the model, tokenizer included, and prints what the user should know to standard error.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(&self) -> Result<Opened> {
        let options = OpenOptions {
            tokenizer: self.tokenizer.as_deref(),
            device: Device::parse(&self.device)?,
            dtype: self.dtype.unwrap_or_default(),
            cache: self.cache_dtype.unwrap_or_default(),
            engine: self.engine,
        };
        open(&self.model, &options, &Terminal::new())
    }

    /// [`ModelArgs::open`] for a model that is to write.
    ///
    /// # Errors
    /// The same, and `Usage` if what computes has no cache in the number format that was asked for.
    pub fn open_to_decode(&self) -> Result<Opened> {
        let on_gpu = Device::parse(&self.device)? != Device::Cpu;
        if self.cache_dtype.unwrap_or_default() != CacheFormat::Fp32 && (on_gpu || self.engine == EngineKind::Reference)
        {
            return Err(Error::usage(
                "--cache-dtype is for the CPU; a GPU keeps keys and values in the numbers of --dtype",
            ));
        }
        self.open()
    }

    /// [`ModelArgs::open_to_decode`] for commands that have no reference engine.
    ///
    /// # Errors
    /// The same, and `Usage` for the reference engine.
    pub fn open_native(&self) -> Result<Opened> {
        if self.engine == EngineKind::Reference {
            return Err(Error::usage(
                "this runs on taper's own engine; --engine reference serves `taper sample` and `train`",
            ));
        }
        self.open_to_decode()
    }
}

impl ValueEnum for Dtype {
    fn value_variants<'a>() -> &'a [Dtype] {
        &[Dtype::Fp32, Dtype::Tf32, Dtype::Bf16, Dtype::Fp16, Dtype::Q8_0, Dtype::Q4_0]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Dtype::Fp32 => ("fp32", "32-bit floats"),
            Dtype::Tf32 => {
                ("tf32", "32-bit floats whose products are rounded to 10 bits of mantissa (NVIDIA GPUs from Ampere on)")
            }
            Dtype::Bf16 => ("bf16", "bfloat16"),
            Dtype::Fp16 => ("fp16", "IEEE half precision"),
            Dtype::Q8_0 => ("q8_0", "8 bits in blocks of 32 with a scale"),
            Dtype::Q4_0 => ("q4_0", "4 bits in blocks of 32 with a scale"),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

impl ValueEnum for EngineKind {
    fn value_variants<'a>() -> &'a [EngineKind] {
        &[EngineKind::Native, EngineKind::Reference]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            EngineKind::Native => PossibleValue::new("native").help("Taper's own engine"),
            EngineKind::Reference => PossibleValue::new("reference")
                .help("The reference engine: candle, operator by operator, without a key-value cache"),
        })
    }
}
