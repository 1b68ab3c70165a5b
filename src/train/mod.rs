//! The `train` room.

pub mod config;
