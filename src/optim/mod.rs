//! Optimizers, clipping and classification of gradients, learning-rate schedules.

pub mod config;
pub mod schedule;
pub mod optimizer;

pub use optimizer::{Class, Hyper, Optimizer, Outcome};
