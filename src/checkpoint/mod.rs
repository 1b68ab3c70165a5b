//! The `checkpoint` room.

pub mod config;
