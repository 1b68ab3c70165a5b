//! Optimizers, clipping and classification of gradients, learning-rate schedules.

pub mod config;
pub mod device;
pub mod guard;
pub mod optimizer;
pub mod schedule;

pub use device::{DeviceOptimizer, Moments};
pub use guard::{Class, LossScaling, Outcome, ScaleState};
pub use optimizer::{Hyper, Optimizer, PART_ALIGN};
