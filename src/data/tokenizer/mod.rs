//! Tokenizers.

pub mod config;
