//! Opening shards: a prepared folder, a folder or glob of published shards, nanoGPT's two files.
//!
//! Files whose name holds `val` are validation, the rest training, each in the order of their names (a manifest says it
//! outright). Opening checks every header against its file's size, and, where there is a manifest, that all its shards are
//! there with the promised counts and that the tokenizer is the one asked for. Checksums are a separate step,
//! [`Shards::verify`], because they read every byte: training runs it once at start, `data inspect` on request.

pub mod inspect;
pub(in crate::data) mod journal;
pub mod manifest;
pub mod shard;
pub mod stream;

pub use manifest::Split;

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::data::shards::manifest::{MANIFEST, Manifest};
use crate::data::shards::shard::{Shard, ShardFormat};
use crate::data::shards::stream::TokenStream;
use crate::data::text::inputs::glob;
use crate::error::{Error, Result};

/// What is expected of shards when they are opened.
#[derive(Clone, Debug, Default)]
pub struct ShardOptions {
    /// The layout.
    pub format: ShardFormat,
    /// The hash of the tokenizer in use; a folder whose manifest names another is refused. (Shards without a manifest
    /// do not say what made them: only ids beyond the vocabulary can show that.)
    pub tokenizer_hash: Option<String>,
}

/// Open shards, by split.
#[derive(Debug)]
pub struct Shards {
    /// Training shards, in order.
    pub train: Vec<Shard>,
    /// Validation shards, in order.
    pub val: Vec<Shard>,
    /// The manifest, if the folder has one.
    pub manifest: Option<Manifest>,
}

impl Shards {
    /// Opens a folder, a glob, or one file.
    ///
    /// # Errors
    /// `Usage` if nothing is there or the folder was made by another tokenizer; `Data` for whatever is wrong with a shard
    /// or the manifest, or if the folder's preparation was not finished.
    pub fn open(input: &str, options: &ShardOptions) -> Result<Shards> {
        let path = Path::new(input);
        let (folder, files) = if path.is_dir() {
            (path.to_path_buf(), bin_files(path)?)
        } else if path.exists() {
            (path.parent().unwrap_or(path).to_path_buf(), vec![path.to_path_buf()])
        } else {
            let files = glob(input)?;
            if files.is_empty() {
                let message =
                    format!("no token shards at {input:?}: there is no such file or folder, and no match as a pattern");
                return Err(Error::usage(message));
            }
            (files[0].parent().unwrap_or(path).to_path_buf(), files)
        };
        let manifest = Manifest::load(&folder)?;
        match &manifest {
            None if journal::is_half_made(&folder) => Err(Error::data(
                &folder,
                "the preparation of these shards was not finished; run the same `taper data prepare` again, it continues where it stopped",
            )),
            Some(manifest) => {
                check_tokenizer(&folder, manifest, options)?;
                let whole = path.is_dir();
                Self::open_recorded(&folder, manifest, options.format, |file| whole || files.contains(file))
            }
            None if files.is_empty() => {
                Err(Error::data(path, "the folder holds no token shards (*.bin); make some with `taper data prepare`"))
            }
            None => {
                let open = |files: Vec<&PathBuf>| {
                    files.into_iter().map(|file| Shard::open(file, options.format)).collect::<Result<Vec<_>>>()
                };
                let (val, train): (Vec<_>, Vec<_>) = files.iter().partition(|file| is_validation(file));
                Ok(Shards {
                    train: open(train).and_then(same_layout)?,
                    val: open(val).and_then(same_layout)?,
                    manifest: None,
                })
            }
        }
    }

    /// Opens the shards that a manifest records, those that are wanted.
    fn open_recorded(
        folder: &Path,
        manifest: &Manifest,
        format: ShardFormat,
        wanted: impl Fn(&PathBuf) -> bool,
    ) -> Result<Shards> {
        let mut shards = Shards { train: Vec::new(), val: Vec::new(), manifest: Some(manifest.clone()) };
        for record in &manifest.shards {
            let path = folder.join(&record.file);
            if !wanted(&path) {
                continue;
            }
            let shard = Shard::open(&path, format)?;
            if shard.tokens() != record.tokens {
                let (here, there) = (shard.tokens(), record.tokens);
                return Err(Error::data(
                    &path,
                    format!("holds {here} tokens, but {MANIFEST} says {there}: prepare the folder anew"),
                ));
            }
            match record.split {
                Split::Train => shards.train.push(shard),
                Split::Val => shards.val.push(shard),
            }
        }
        Ok(shards)
    }

    /// The shards of a split.
    pub fn of(&self, split: Split) -> &[Shard] {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        }
    }

    /// Makes one stream of each split: training and, if there is any, validation.
    pub fn into_streams(self, vocab_size: usize) -> (TokenStream, Option<TokenStream>) {
        let val = (!self.val.is_empty()).then(|| TokenStream::new(self.val, vocab_size));
        (TokenStream::new(self.train, vocab_size), val)
    }

    /// Compares every shard with the checksum in the manifest, on all cores. Returns how many shards were compared: 0 if
    /// there is no manifest to compare with.
    ///
    /// # Errors
    /// `Data` names the first shard that differs.
    pub fn verify(&self) -> Result<usize> {
        let Some(manifest) = &self.manifest else { return Ok(0) };
        let recorded = |shard: &Shard| {
            let name = shard.path().file_name()?.to_str()?;
            manifest.shards.iter().find(|record| record.file == name)
        };
        let pairs: Vec<_> = self.train.iter().chain(&self.val).filter_map(|s| recorded(s).map(|r| (s, r))).collect();
        let sums: Vec<String> = pairs.par_iter().map(|(shard, _)| shard.checksum()).collect();
        for ((shard, record), sum) in pairs.iter().zip(&sums) {
            if *sum != record.xxh3 {
                let there = &record.xxh3;
                let message = format!(
                    "the tokens are damaged: their checksum is {sum}, but {MANIFEST} says {there}; prepare the folder anew"
                );
                return Err(Error::data(shard.path(), message));
            }
        }
        Ok(pairs.len())
    }
}

/// Whether a shard is validation by its name.
fn is_validation(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains("val"))
}

/// The `.bin` files of a folder, sorted.
pub(in crate::data) fn bin_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|extension| extension == "bin") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn check_tokenizer(folder: &Path, manifest: &Manifest, options: &ShardOptions) -> Result<()> {
    match &options.tokenizer_hash {
        Some(hash) if *hash != manifest.tokenizer.hash => Err(Error::usage(format!(
            "{}: these shards were made by another tokenizer ({:?}, hash {}, {} ids) than the one in use (hash {hash}); \
             prepare them anew with this one, or use theirs",
            folder.display(),
            manifest.tokenizer.name,
            manifest.tokenizer.hash,
            manifest.tokenizer.vocab_size,
        ))),
        _ => Ok(()),
    }
}

/// Shards of one split come from one tool; a mixture is a mistake.
fn same_layout(shards: Vec<Shard>) -> Result<Vec<Shard>> {
    if let Some(pair) = shards.windows(2).find(|pair| pair[0].layout() != pair[1].layout()) {
        let (first, second) = (pair[0].path().display(), pair[0].layout());
        return Err(Error::data(
            pair[1].path(),
            format!("its layout ({:?}) is not that of {first} ({second:?})", pair[1].layout()),
        ));
    }
    Ok(shards)
}
