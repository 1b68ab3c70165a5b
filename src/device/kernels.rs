//! The sources of the kernels, part of the binary.
//!
//! A kernel is named after its file: `STEM_WHAT_DTYPE` stands in `kernels/STEM.cu`.

use crate::error::{Error, Result};

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The file's name without `.cu`.
    pub stem: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! sources {
    ($($stem:literal),* $(,)?) => {
        &[$(Source { stem: $stem, text: include_str!(concat!("../../kernels/", $stem, ".cu")) }),*]
    };
}

macro_rules! headers {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../kernels/", $name)))),*]
    };
}

/// Every file of kernels.
pub const SOURCES: &[Source] = sources![];

/// What they include: names as they stand in `#include`, and texts.
pub const HEADERS: &[(&str, &str)] =
    headers!["taper.cuh", "types.cuh", "memory.cuh", "mma.cuh", "philox.cuh", "reduce.cuh"];

/// The file that a kernel stands in.
///
/// # Errors
/// A `Device` error if no file has a name that the kernel's begins with.
pub fn source_of(kernel: &str) -> Result<&'static Source> {
    let begins = |source: &&Source| kernel.strip_prefix(source.stem).is_some_and(|rest| rest.starts_with('_'));
    let longest = SOURCES.iter().filter(begins).max_by_key(|source| source.stem.len());
    longest.ok_or_else(|| Error::Device(format!("there is no kernel named {kernel}")))
}
