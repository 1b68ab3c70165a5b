//! Optimizers, clipping and classification of gradients, learning-rate schedules.

pub mod config;
pub mod device;
pub mod optimizer;
pub mod schedule;

pub use device::{DeviceOptimizer, LossScaling, Moments, ScaleState};
pub use optimizer::{Class, Hyper, Optimizer, Outcome, PART_ALIGN};
