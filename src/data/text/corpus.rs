//! The quickstart's corpus, which is on every machine that built `taper`: the Rust sources of crates it depends on.
//!
//! Cargo keeps what it fetched in `registry/src`. We read the crates of [`CRATES`] from there, at the versions of our own
//! `Cargo.lock`: crates that every build needs, whatever the platform and the features, with readable code and little that
//! is generated. Files above [`MAX_FILE_BYTES`] (tables, mostly) are left out. A SHA-256 over names and contents makes sure
//! that the corpus, and so the losses of the quickstart, are the same everywhere.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The word that stands for this corpus where inputs are named (`data.text = ["cargo-sources"]`).
pub const CARGO_SOURCES: &str = "cargo-sources";

/// Files larger than this are left out: they are tables and generated code.
pub const MAX_FILE_BYTES: u64 = 100_000;

/// Unconditional dependencies, direct or through one. Sorted. Where `Cargo.lock` has several versions of one, the
/// newest is taken.
pub const CRATES: [&str; 36] = [
    "aho-corasick",
    "bstr",
    "bytemuck",
    "candle-core",
    "candle-nn",
    "clap",
    "clap_builder",
    "clap_complete",
    "clap_derive",
    "flate2",
    "gemm",
    "gemm-common",
    "globset",
    "half",
    "hf-hub",
    "indexmap",
    "indicatif",
    "memchr",
    "plotters",
    "rayon",
    "rayon-core",
    "regex-automata",
    "regex-syntax",
    "safetensors",
    "schemars",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "signal-hook",
    "tempfile",
    "tiktoken-rs",
    "tokenizers",
    "toml_parser",
    "walkdir",
    "winnow",
];

/// The SHA-256 of the corpus at the versions of `Cargo.lock`. When those change, the test
/// `the_corpus_is_the_recorded_one` prints the new value.
pub const SHA256: &str = "0c77f59fa8a4e4c95111be2b951ff95241c6797930845a97783afb73f96037be";

const LOCK: &str = include_str!("../../../Cargo.lock");

/// The files of the corpus.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// Where they are, in the order in which they are read: by crate, then by path.
    pub files: Vec<PathBuf>,
    /// SHA-256, in hexadecimal, over each file's name (from the crate's folder on, with `/`), a zero byte, its length
    /// (u64, little-endian) and its content.
    pub sha256: String,
    /// The size of all files together.
    pub bytes: u64,
}

/// Finds the corpus in cargo's registry and checks it against [`SHA256`].
///
/// # Errors
/// `Usage` if a crate is not there or anything differs, with the way to train on another text.
pub fn cargo_sources() -> Result<Corpus> {
    let corpus = find(&registry()?)?;
    if corpus.sha256 != SHA256 {
        return Err(Error::usage(format!(
            "the Rust sources in cargo's registry are not those that the quickstart was made with: {} files, {} bytes, \
             SHA-256 {}, expected {SHA256}; {OWN_TEXT}",
            corpus.files.len(),
            corpus.bytes,
            corpus.sha256
        )));
    }
    Ok(corpus)
}

const OWN_TEXT: &str = "train on a text of your own with --set data.text='[\"my.txt\"]'";

/// Where cargo unpacks what it fetched: `$CARGO_HOME/registry/src`, else `~/.cargo/registry/src`.
pub fn registry() -> Result<PathBuf> {
    let home = match std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()) {
        Some(home) => PathBuf::from(home),
        None => match std::env::home_dir() {
            Some(home) => home.join(".cargo"),
            None => {
                return Err(Error::usage(format!(
                    "cannot tell where cargo's registry is: set CARGO_HOME, or {OWN_TEXT}"
                )));
            }
        },
    };
    Ok(home.join("registry").join("src"))
}

/// Reads the corpus below a `registry/src` folder, which holds one folder for each registry that was fetched from.
pub fn find(registry: &Path) -> Result<Corpus> {
    let missing = |what: &str| {
        let where_ = registry.display();
        Error::usage(format!(
            "the quickstart's text, Rust sources that cargo fetched, is not all there: {what} in {where_}; {OWN_TEXT}"
        ))
    };
    let mut registries = Vec::new();
    for entry in std::fs::read_dir(registry).map_err(|_| missing("no registry"))? {
        registries.push(entry.map_err(Error::io("read", registry))?.path());
    }
    registries.sort();
    let mut corpus = Corpus { files: Vec::new(), sha256: String::new(), bytes: 0 };
    let mut hash = Sha256::new();
    for name in CRATES {
        let version = locked_version(name).ok_or_else(|| missing(&format!("no locked version of the crate {name}")))?;
        let folder = format!("{name}-{version}");
        let root = registries.iter().map(|registry| registry.join(&folder)).find(|root| root.is_dir());
        let root = root.ok_or_else(|| missing(&format!("no crate {name} {version}")))?;
        for (inner, path) in rust_files(&root)? {
            let content = std::fs::read(&path).map_err(Error::io("read", &path))?;
            let name = format!("{folder}/{inner}");
            hash.update(name.as_bytes());
            hash.update([0]);
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(&content);
            corpus.bytes += content.len() as u64;
            corpus.files.push(path);
        }
    }
    corpus.sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(corpus)
}

/// The non-empty Rust files below a crate's folder that are not too large, by name from there, sorted by its bytes.
fn rust_files(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.map_err(|error| Error::io("read", root)(error.into()))?;
        let path = entry.path();
        if !entry.file_type().is_file() || path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let bytes = entry.metadata().map_err(|error| Error::io("read", path)(error.into()))?.len();
        if (1..=MAX_FILE_BYTES).contains(&bytes) {
            let parts = path.strip_prefix(root).unwrap_or(path).components();
            let name = parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
            files.push((name, path.to_path_buf()));
        }
    }
    files.sort();
    Ok(files)
}

/// The newest version of a crate in our `Cargo.lock`, which lists the versions of one in ascending order.
fn locked_version(name: &str) -> Option<&'static str> {
    let line = format!("name = \"{name}\"");
    let mut lines = LOCK.lines();
    let mut newest = None;
    while lines.any(|l| l == line) {
        newest = lines.next().and_then(|l| l.strip_prefix("version = \"")?.strip_suffix('"'));
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_every_crate_is_locked() {
        assert!(CRATES.is_sorted());
        for name in CRATES {
            assert!(locked_version(name).is_some(), "{name}");
        }
        // The terminal library brings a second, older one; ours is what the quickstart has always read.
        let ours = locked_version("signal-hook").unwrap();
        assert!(ours.starts_with("0.4."), "{ours}");
        assert_eq!(locked_version("no-such-crate"), None);
    }

    #[test]
    fn the_corpus_is_the_recorded_one() {
        let found = registry().and_then(|registry| find(&registry));
        let corpus = match found {
            Ok(corpus) => corpus,
            Err(error) => {
                println!("skipped: cargo's registry is not here (vendored sources?): {error}");
                return;
            }
        };
        assert!((10_000_000..20_000_000).contains(&corpus.bytes), "{} bytes", corpus.bytes);
        assert_eq!(
            corpus.sha256,
            SHA256,
            "Cargo.lock changed? Then set SHA256 in src/data/corpus.rs to {:?} ({} files, {} bytes), and record the new \
             losses of the quickstart",
            corpus.sha256,
            corpus.files.len(),
            corpus.bytes
        );
    }

    #[test]
    fn a_missing_crate_is_named_with_the_way_on() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("some-registry/aho-corasick-0.0.0")).unwrap();
        let error = find(folder.path()).unwrap_err().to_string();
        assert!(error.contains("aho-corasick") && error.contains("data.text"), "{error}");
    }
}
