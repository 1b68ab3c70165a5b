//! The `data` room.

pub mod tokenizer;
