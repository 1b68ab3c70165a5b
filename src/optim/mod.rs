//! The `optim` room.

pub mod config;
pub mod schedule;
