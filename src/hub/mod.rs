//! The `hub` room.

pub mod config;
