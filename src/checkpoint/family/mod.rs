//! The kinds of models that transformers knows and taper writes and reads.

pub(super) mod gpt2;
pub(super) mod llama;
