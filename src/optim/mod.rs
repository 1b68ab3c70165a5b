//! Optimizers, clipping and classification of gradients, learning-rate schedules.
//!
//! An optimizer is a guard ([`guard`]: norm, kind of step, clipping, loss scale) and a rule ([`rule`]: AdamW) with its named
//! state ([`state`]). [`optimizer`] puts them together on the CPU, [`device`] on a GPU.

pub mod config;
pub mod device;
pub mod guard;
pub mod optimizer;
pub mod rule;
pub mod schedule;
pub mod state;

pub use device::DeviceOptimizer;
pub use guard::{Class, LossScaling, Outcome, ScaleState};
pub use optimizer::{Hyper, Optimizer, PART_ALIGN};
pub use state::OptimizerState;
