//! Optimizers, clipping and classification of gradients, learning-rate schedules.

pub mod config;
pub mod optimizer;
pub mod schedule;

pub use optimizer::{Class, Hyper, Optimizer, Outcome};
