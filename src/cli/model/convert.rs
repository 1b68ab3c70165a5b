//! `taper model export` and `taper model convert`: a model in another dtype, in pieces, or in another program's format.

use std::path::{Path, PathBuf};

use crate::checkpoint::adapter;
use crate::checkpoint::convert::{Biases, change_biases, crop_vocabulary};
use crate::checkpoint::gguf::{GgufType, Vocabulary, write_gguf};
use crate::checkpoint::llmc::{GPT2_VOCABULARY, read_llmc};
use crate::checkpoint::{FolderKind, ModelFolder, Packing, WeightType, write_model_folder_as};
use crate::cli::ui::{Terminal, note, say};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::open::{self, locate};

/// The dtypes of exported weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// float32, as trained
    #[value(alias = "fp32")]
    F32,
    /// float16
    #[value(alias = "fp16")]
    F16,
    /// bfloat16
    Bf16,
    /// blocks of 32 signed bytes with a float16 scale (GGUF only)
    #[value(name = "q8_0")]
    Q8_0,
}

impl Dtype {
    fn plain(self) -> Option<WeightType> {
        match self {
            Dtype::F32 => Some(WeightType::F32),
            Dtype::F16 => Some(WeightType::F16),
            Dtype::Bf16 => Some(WeightType::Bf16),
            Dtype::Q8_0 => None,
        }
    }
}

/// The formats of `taper model export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// one file for llama.cpp, tokenizer included
    Gguf,
    /// a model folder for transformers
    Hf,
}

/// Arguments of `taper model export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// A model folder, a run folder, or an llm.c model file (.bin).
    model: String,
    /// What to write.
    #[arg(long, value_enum)]
    format: Format,
    /// The file (gguf) or folder (hf) to make; it must not exist.
    #[arg(long, value_name = "FILE|DIR")]
    out: PathBuf,
    /// The dtype of the weights.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// What the model is called in the file (gguf) [default: the name of FILE].
    #[arg(long)]
    name: Option<String>,
    /// The tokenizer: gpt2, bytes, a tokenizer.json, or a folder that holds one [default: the model folder's].
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "no_tokenizer")]
    tokenizer: Option<String>,
    /// Write the model without a tokenizer: it takes and gives token ids.
    #[arg(long)]
    no_tokenizer: bool,
    /// Require that MODEL is a LoRA adapter, which is written merged into its base. (Adapters are merged in any case.)
    #[arg(long)]
    merge: bool,
}

/// Arguments of `taper model convert`.
#[derive(Debug, clap::Args)]
pub struct ConvertArgs {
    /// A model folder, a run folder, or an llm.c model file (.bin).
    model: String,
    /// The model folder to make; it must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The dtype of the weights: f32, f16 or bf16.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Cut the weights into files of at most this size, such as 2GB, 500MB or 1GiB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    shard_size: Option<u64>,
    /// Keep only the first N rows of the vocabulary: takes padding away.
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,
    /// keep: as they are; add: all of them, zero where there was none; drop-if-zero: without those that are all zero.
    #[arg(long, value_name = "WHAT", default_value = "keep", value_parser = parse_biases)]
    biases: Biases,
    /// The tokenizer: gpt2, bytes, a tokenizer.json, or a folder that holds one [default: the model folder's].
    #[arg(long, value_name = "NAME|FILE")]
    tokenizer: Option<String>,
}

fn parse_biases(text: &str) -> std::result::Result<Biases, String> {
    match text {
        "keep" => Ok(Biases::Keep),
        "add" => Ok(Biases::Add),
        "drop-if-zero" => Ok(Biases::DropIfZero),
        _ => Err("give keep, add or drop-if-zero".into()),
    }
}

/// A number of bytes: units of a thousand (KB, MB, GB), as transformers counts shards, or of 1024 (KiB, MiB, GiB).
fn parse_size(text: &str) -> std::result::Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let found = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
    let (number, unit) = found.unwrap_or((text, &1));
    let bytes = number.trim().parse::<f64>().ok().map(|number| number * *unit as f64);
    match bytes {
        Some(bytes) if (1.0..1e18).contains(&bytes) => Ok(bytes as u64),
        _ => Err("give a size such as 2GB, 500MB or 1GiB".into()),
    }
}

/// A model with what belongs to it.
struct ModelWithTokenizer {
    model: ModelFolder,
    tokenizer: Option<Tokenizer>,
    /// The model folder, where it was one.
    folder: Option<PathBuf>,
}

impl ModelWithTokenizer {
    fn read(model: &str, tokenizer: Option<&str>) -> Result<ModelWithTokenizer> {
        let named = tokenizer.map(Tokenizer::from_name_or_path).transpose()?;
        let path = Path::new(model);
        let source = if path.is_file() {
            let found = read_llmc(path)?;
            let own = if found.config.vocab_size == GPT2_VOCABULARY { Some(Tokenizer::gpt2()?) } else { None };
            ModelWithTokenizer { model: found, tokenizer: named.or(own), folder: None }
        } else {
            let folder = locate(model, &Terminal::new())?;
            let has = |name: &str| folder.join(name).is_file();
            let own = has("tokenizer.json") || (has("vocab.json") && has("merges.txt"));
            let tokenizer = match named {
                None if own => Some(Tokenizer::from_file(&folder)?),
                named => named,
            };
            ModelWithTokenizer { model: open::read(&folder, &Terminal::new())?, tokenizer, folder: Some(folder) }
        };
        source.model.notes.iter().for_each(|text| note(text));
        Ok(source)
    }

    /// Writes the model folder `out`.
    fn write_folder(&self, out: &Path, packing: Packing) -> Result<()> {
        let ModelFolder { config, params, eos, .. } = &self.model;
        let eos = self.tokenizer.as_ref().and_then(Tokenizer::eot).or(*eos);
        let mut files = 0;
        appear(out, |folder| {
            files = write_model_folder_as(folder, config, params, eos, packing)?.len();
            match &self.tokenizer {
                Some(tokenizer) => tokenizer.save(folder, config.context_length)?,
                None => note("there is no tokenizer to write; the model takes and gives token ids"),
            }
            let card = self.folder.as_ref().map(|folder| folder.join("README.md")).filter(|card| card.is_file());
            if let Some(card) = card {
                std::fs::copy(&card, folder.join("README.md")).map_err(Error::io("copy", &card))?;
            }
            Ok(())
        })?;
        if let FolderKind::Own { reasons } = FolderKind::of(config) {
            reasons.iter().for_each(|reason| note(&format!("this model will not load in transformers: {reason}")));
        }
        let files = if files == 1 { String::new() } else { format!(", weights in {files} files") };
        say(&format!("wrote {} ({}{files})", out.display(), packing.weights.torch_name()));
        Ok(())
    }
}

/// Makes a folder that appears whole or not at all: `fill` writes it next to its place, and it is renamed.
///
/// # Errors
/// `Usage` if `out` exists; `Io`; whatever `fill` says.
pub(crate) fn appear(out: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    refuse_existing(out)?;
    let parent = parent_of(out)?;
    let beside = tempfile::Builder::new().prefix(".taper-").tempdir_in(parent).map_err(Error::io("create", out))?;
    let folder = beside.path().join("model");
    std::fs::create_dir(&folder).map_err(Error::io("create", out))?;
    fill(&folder)?;
    std::fs::rename(&folder, out).map_err(Error::io("create", out))
}

fn refuse_existing(out: &Path) -> Result<()> {
    if out.symlink_metadata().is_ok() {
        return Err(Error::usage(format!("{} exists already; choose another --out, or remove it", out.display())));
    }
    Ok(())
}

/// The folder that `out` will stand in, made if absent.
fn parent_of(out: &Path) -> Result<&Path> {
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    Ok(parent)
}

/// Runs `taper model convert`.
///
/// # Errors
/// If the model cannot be read, the options do not fit it, or the folder cannot be written.
pub(crate) fn convert(args: &ConvertArgs) -> Result<()> {
    refuse_existing(&args.out)?;
    let weights = plain(args.dtype)?;
    let mut source = ModelWithTokenizer::read(&args.model, args.tokenizer.as_deref())?;
    if let Some(size) = args.vocab_size {
        crop_vocabulary(&mut source.model, size, source.tokenizer.as_ref().map(Tokenizer::vocab_size))?;
    }
    let told = source.model.notes.len();
    change_biases(&mut source.model, args.biases);
    source.model.notes[told..].iter().for_each(|text| note(text));
    source.write_folder(&args.out, Packing { weights, shard_bytes: args.shard_size })
}

fn plain(dtype: Dtype) -> Result<WeightType> {
    dtype.plain().ok_or_else(|| Error::usage("--dtype q8_0 is of GGUF files; a model folder has f32, f16 or bf16"))
}

/// Runs `taper model export`.
///
/// # Errors
/// If the model cannot be read, the format does not fit it, or the file cannot be written.
pub(crate) fn export(args: &ExportArgs) -> Result<()> {
    refuse_existing(&args.out)?;
    if args.merge && !adapter::is_adapter(&locate(&args.model, &Terminal::new())?) {
        return Err(Error::usage(format!("--merge: {} is no adapter; leave the option out", args.model)));
    }
    if args.format == Format::Hf {
        let weights = plain(args.dtype)?;
        let mut source = ModelWithTokenizer::read(&args.model, args.tokenizer.as_deref())?;
        if args.no_tokenizer {
            source.tokenizer = None;
        }
        return source.write_folder(&args.out, Packing { weights, shard_bytes: None });
    }
    let source = ModelWithTokenizer::read(&args.model, args.tokenizer.as_deref())?;
    let vocabulary = match &source.tokenizer {
        _ if args.no_tokenizer => None,
        Some(tokenizer) => {
            let origin = match (&args.tokenizer, &source.folder) {
                (Some(name), _) => PathBuf::from(name),
                (None, Some(folder)) => folder.join("tokenizer.json"),
                (None, None) => PathBuf::from("gpt2"),
            };
            Some(Vocabulary::from_json(tokenizer.json(), &origin, tokenizer.eot())?)
        }
        None => {
            return Err(Error::usage(format!(
                "{} has no tokenizer, and a GGUF file carries one; name it (--tokenizer gpt2, or a tokenizer.json), or \
                 write the file without (--no-tokenizer)",
                args.model
            )));
        }
    };
    let stem = args.out.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().unwrap_or(stem);
    let weights = args.dtype.plain().map_or(GgufType::Q8_0, GgufType::Plain);
    // Written next to its place and renamed, so that a half-written file is never taken for a model.
    let beside = tempfile::Builder::new()
        .prefix(".taper-")
        .tempdir_in(parent_of(&args.out)?)
        .map_err(Error::io("create", &args.out))?;
    let part = beside.path().join("model.gguf");
    let ModelFolder { config, params, .. } = &source.model;
    let written = write_gguf(&part, &name, config, params, weights, vocabulary.as_ref())?;
    std::fs::rename(&part, &args.out).map_err(Error::io("create", &args.out))?;
    written.notes.iter().for_each(|text| note(text));
    say(&format!("wrote {} ({} tensors, {} bytes)", args.out.display(), written.tensors, written.bytes));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_units() {
        let sizes = ["2GB", "500MB", "1GiB", "1.5 KB", "12", "7B"].map(|text| parse_size(text).unwrap());
        assert_eq!(sizes, [2_000_000_000, 500_000_000, 1 << 30, 1500, 12, 7]);
        for wrong in ["", "GB", "0", "-1GB", "2 apples", "nan", "inf"] {
            assert!(parse_size(wrong).is_err(), "{wrong:?}");
        }
    }
}
