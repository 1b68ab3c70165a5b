//! Training: the loop over steps, and what it is made of.
//!
//! [`batch`] finds the micro-batch, [`trainer`] runs the loop, [`mod@engine`] computes, [`objective`] says what is
//! minimised, [`lanes`] adds gradients up in an order that
//! does not depend on how many devices there are, [`save`] writes checkpoints. What a run needs before its first step is in
//! [`crate::run`]. Charts, progress bars and the like are observers.

pub mod batch;
pub mod config;
pub mod engine;
pub mod lanes;
pub mod objective;
pub mod save;
pub mod spike;
pub mod trainer;

pub use engine::Engine;
pub use trainer::{Findings, Job, Observer, Trainer, score_event};
