//! The `model` room.

pub mod config;
pub mod layout;
