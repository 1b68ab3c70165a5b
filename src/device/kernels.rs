//! The sources of the kernels, part of the binary.
//!
//! A kernel is named after its file: `STEM_WHAT_DTYPE` stands in `kernels/STEM.cu`. Two that serve several files of
//! attention have names of their own.

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
pub const SOURCES: &[Source] = sources![
    "adamw",
    "attention_backward_keys",
    "attention_backward_queries",
    "attention_decode",
    "attention_forward",
    "attention_generic",
    "bias",
    "cast",
    "classifier",
    "dropout",
    "embedding",
    "gelu",
    "gradnorm",
    "layernorm",
    "reduce",
    "relu2",
    "residual",
    "rmsnorm",
    "rope",
    "swiglu",
];

/// Beginnings of kernels' names that are not their file's stem, and the stem.
const ELSEWHERE: &[(&str, &str)] =
    &[("attention_delta", "attention_backward_queries"), ("attention_kv_append", "attention_decode")];

/// What they include: names as they stand in `#include`, and texts.
pub const HEADERS: &[(&str, &str)] = headers![
    "attention.cuh",
    "memory.cuh",
    "mma.cuh",
    "norm.cuh",
    "philox.cuh",
    "reduce.cuh",
    "step.cuh",
    "taper.cuh",
    "types.cuh",
];

/// The file that a kernel stands in.
///
/// # Errors
/// A `Device` error if no file has a name that the kernel's begins with.
pub fn source_of(kernel: &str) -> Result<&'static Source> {
    let begins = |name: &str| kernel.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
    let elsewhere = ELSEWHERE.iter().find(|(name, _)| begins(name)).map(|(_, stem)| *stem);
    let holds = |source: &&Source| elsewhere.map_or_else(|| begins(source.stem), |stem| source.stem == stem);
    let longest = SOURCES.iter().filter(holds).max_by_key(|source| source.stem.len());
    longest.ok_or_else(|| Error::Device(format!("there is no kernel named {kernel}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_part_of_the_binary() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let sources = SOURCES.iter().map(|source| format!("{}.cu", source.stem));
        let mut known: Vec<String> = sources.chain(HEADERS.iter().map(|(name, _)| name.to_string())).collect();
        known.sort();
        assert_eq!(names, known);
    }

    #[test]
    fn kernels_are_found_by_name() {
        for (kernel, stem) in [
            ("attention_delta_bf16", "attention_backward_queries"),
            ("attention_kv_append_f32", "attention_decode"),
            ("attention_decode_combine_f32", "attention_decode"),
            ("attention_forward_d64_dropout_bf16", "attention_forward"),
            ("gradnorm_finish", "gradnorm"),
        ] {
            assert_eq!(source_of(kernel).unwrap().stem, stem);
        }
        assert!(source_of("nothing_f32").is_err());
    }
}
