//! From what a user names (files, folders, globs, `cargo-sources`) to a list of files in a fixed order.
//!
//! Inputs keep the order in which they are given; what stands behind one of them is sorted by path. In a folder only files
//! of known extensions count, at any depth, hidden ones aside; a file named outright, or matched by a glob, is taken as it
//! is: unknown extensions are UTF-8 text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::data::text::corpus;
use crate::error::{Error, Result};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One document of UTF-8 text.
    Text,
    /// One JSON object a line, each a document.
    JsonLines,
    /// A Parquet table, each row a document.
    Parquet,
}

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, possibly of several members.
    Gzip,
    /// Zstandard, possibly of several frames.
    Zstd,
}

/// A file that is elsewhere until its turn comes, so that a set larger than the disk can be prepared.
pub trait Remote: Send + Sync + std::fmt::Debug {
    /// Brings the file here, whole and checked, and says where it is; the next one may be on its way meanwhile.
    ///
    /// # Errors
    /// If it cannot be had.
    fn fetch(&self) -> Result<PathBuf>;

    /// It was read to its end and may go. May be called for a file that was never fetched.
    fn release(&self);

    /// What its content is known by, as a local file is by its time: a hash.
    fn identity(&self) -> String;
}

/// One input file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it is; the name of a remote one.
    pub path: PathBuf,
    /// Its size on disk in bytes.
    pub bytes: u64,
    /// What it holds.
    pub format: Format,
    /// How it is packed.
    pub compression: Compression,
    /// Which of the given inputs it belongs to.
    pub input: usize,
    /// How it is fetched, if it is not here.
    pub remote: Option<Arc<dyn Remote>>,
}

impl Source {
    /// A file that is fetched when its turn comes; its name tells its format.
    ///
    /// # Errors
    /// `Data` if files of that name cannot be read.
    pub fn remote(name: &str, bytes: u64, remote: Arc<dyn Remote>) -> Result<Source> {
        Ok(Source { bytes, remote: Some(remote), ..of_name(Path::new(name), 0)? })
    }
}

/// The extensions that count in a folder, as a sentence for messages.
const KNOWN: &str = ".txt, .md, .jsonl and .parquet (text and JSON lines also as .gz or .zst)";

/// Finds the files behind `inputs`, in order.
///
/// # Errors
/// `Usage` or `Io` for an input that is not there, a glob that matches nothing, a folder without text; `Data` if the
/// corpus `cargo-sources` is not as recorded.
pub fn resolve(inputs: &[String]) -> Result<Vec<Source>> {
    if inputs.is_empty() {
        return Err(Error::usage("no text was given: name files, folders or globs"));
    }
    let mut sources = Vec::new();
    for (number, input) in inputs.iter().enumerate() {
        if input == corpus::CARGO_SOURCES {
            for file in corpus::cargo_sources()?.files {
                sources.push(source(&file, number)?);
            }
            continue;
        }
        let path = Path::new(input);
        // A name that exists is that file, even if it looks like a pattern.
        let files = if path.is_dir() {
            folder(path)?
        } else if path.exists() || !input.contains(['*', '?', '[', '{']) {
            vec![path.to_path_buf()]
        } else {
            let files = glob(input)?;
            if files.is_empty() {
                return Err(Error::usage(format!(
                    "no file matches the pattern {input:?}; check it, or name the files"
                )));
            }
            files
        };
        for file in files {
            sources.push(source(&file, number)?);
        }
    }
    Ok(sources)
}

/// The files that match a glob, sorted. `*` and `?` stay within a folder's name, `**` crosses folders.
pub fn glob(pattern: &str) -> Result<Vec<PathBuf>> {
    let matcher = globset::GlobBuilder::new(pattern)
        .literal_separator(true)
        .build()
        .map_err(|error| Error::usage(format!("the pattern {pattern:?} is not a glob: {}", error.kind())))?
        .compile_matcher();
    // The walk starts at the last folder that is spelled out.
    let base: PathBuf = Path::new(pattern)
        .components()
        .take_while(|c| !c.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']))
        .collect();
    let walk = if base.as_os_str().is_empty() { Path::new(".") } else { &base };
    if !walk.is_dir() {
        return Ok(Vec::new());
    }
    let depth = if pattern.contains("**") { usize::MAX } else { Path::new(pattern).components().count() + 1 };
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(walk).follow_links(true).max_depth(depth) {
        let entry = entry.map_err(|error| unreadable(walk, error))?;
        let path = entry.path();
        let path = if base.as_os_str().is_empty() { path.strip_prefix(".").unwrap_or(path) } else { path };
        if entry.file_type().is_file() && (matcher.is_match(path) || matcher.is_match(Path::new(".").join(path))) {
            files.push(path.to_path_buf());
        }
    }
    files.sort();
    Ok(files)
}

/// The files of known extensions in a folder, at any depth, sorted; hidden files and folders are left out.
fn folder(path: &Path) -> Result<Vec<PathBuf>> {
    let visible =
        |entry: &walkdir::DirEntry| entry.depth() == 0 || !entry.file_name().to_string_lossy().starts_with('.');
    let (mut files, mut others) = (Vec::new(), 0u64);
    for entry in walkdir::WalkDir::new(path).follow_links(true).into_iter().filter_entry(visible) {
        let entry = entry.map_err(|error| unreadable(path, error))?;
        if entry.file_type().is_file() {
            match classify(entry.path()) {
                (Some(_), _) => files.push(entry.into_path()),
                (None, _) => others += 1,
            }
        }
    }
    if files.is_empty() {
        return Err(Error::data(
            path,
            format!("the folder holds no text: it has {others} files, but none of {KNOWN}; name other files by a glob"),
        ));
    }
    files.sort();
    Ok(files)
}

fn unreadable(path: &Path, error: walkdir::Error) -> Error {
    let path = error.path().unwrap_or(path).to_path_buf();
    let source = error.into_io_error().unwrap_or_else(|| std::io::Error::other("the folder links to itself"));
    Error::Io { action: "read", path, source }
}

/// The format by the extension (`None` if it is unknown) and the compression.
fn classify(path: &Path) -> (Option<Format>, Compression) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (stem, compression) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem, Compression::Gzip),
        Some((stem, "zst")) => (stem, Compression::Zstd),
        _ => (name.as_str(), Compression::None),
    };
    let format = match stem.rsplit_once('.').map(|(_, extension)| extension) {
        Some("txt" | "md") => Some(Format::Text),
        Some("jsonl") => Some(Format::JsonLines),
        Some("parquet") => Some(Format::Parquet),
        _ => None,
    };
    (format, compression)
}

fn source(path: &Path, input: usize) -> Result<Source> {
    let meta = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if meta.is_dir() {
        return Err(Error::data(path, "this is a folder where a file was expected"));
    }
    Ok(Source { bytes: meta.len(), ..of_name(path, input)? })
}

fn of_name(path: &Path, input: usize) -> Result<Source> {
    let (format, compression) = classify(path);
    let format = format.unwrap_or(Format::Text);
    if format == Format::Parquet && compression != Compression::None {
        return Err(Error::data(path, "a Parquet file cannot be read through compression; unpack it first"));
    }
    Ok(Source { path: path.to_path_buf(), bytes: 0, format, compression, input, remote: None })
}
