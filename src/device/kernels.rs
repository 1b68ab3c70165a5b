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
    "candidates",
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
    "attention_only.cuh",
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

/// What to define so that only the instances which a kernel is one of are compiled: those of attention take a compiler 10 to
/// 20 seconds a file, and a model uses a few of them. Empty for other files.
pub fn definitions(kernel: &str) -> Vec<String> {
    if !kernel.starts_with("attention_") {
        return Vec::new();
    }
    let words: Vec<&str> = kernel.split('_').collect();
    let mut names = vec!["ATTENTION_ONLY".to_string()];
    names.extend(["f32", "bf16", "f16"].iter().filter(|name| words.contains(name)).map(|name| define(name)));
    names.extend(["d64", "d128"].iter().filter(|name| words.contains(name)).map(|name| define(name)));
    if words.iter().any(|word| matches!(*word, "d64" | "d128")) {
        let kind = ["dropout", "documents"].into_iter().find(|kind| words.contains(kind));
        names.push(define(kind.unwrap_or("plain")));
    }
    names.extend(["64", "32"].iter().filter(|tile| words.contains(tile)).map(|tile| define(&format!("tile{tile}"))));
    names
}

fn define(name: &str) -> String {
    format!("ATTENTION_{}", name.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_attention_only_what_is_wanted_is_compiled() {
        let names = |kernel| definitions(kernel).join(" ").replace("ATTENTION_", "");
        assert_eq!(names("attention_forward_d64_bf16"), "ONLY BF16 D64 PLAIN");
        assert_eq!(names("attention_backward_keys_d128_dropout_f16"), "ONLY F16 D128 DROPOUT");
        assert_eq!(names("attention_forward_d64_documents_bf16"), "ONLY BF16 D64 DOCUMENTS");
        assert_eq!(names("attention_generic_backward_queries_32_f32"), "ONLY F32 TILE32");
        assert_eq!(names("attention_decode_combine_bf16"), "ONLY BF16");
        assert_eq!(names("layernorm_forward_bf16"), "");
    }

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
