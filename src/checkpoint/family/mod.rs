//! The kinds of models that transformers knows and taper writes and reads: one file each, and one list.
//!
//! A new one is a file with a [`Family`] and a line in [`FAMILIES`].

mod facts;
pub(super) mod gpt2;
pub(super) mod llama;

pub use facts::Family;

/// Every family. A shape that several can express is saved as the first of them.
pub static FAMILIES: [&Family; 2] = [&gpt2::FAMILY, &llama::FAMILY];
