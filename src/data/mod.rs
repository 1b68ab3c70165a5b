//! The `data` room.

pub mod config;
pub mod tokenizer;
