//! The `sample` room.

pub mod config;
