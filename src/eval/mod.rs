//! The `eval` room.

pub mod config;
