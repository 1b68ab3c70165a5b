//! Training: from text and settings to a run folder.
//!
//! [`source`] and [`chat`] open the data and the tokenizer, [`batch`] finds the micro-batch, [`trainer`] runs the loop, [`mod@engine`] computes, [`objective`] says what is minimised, [`lanes`] adds
//! gradients up in an order that does not depend on how many devices there are, [`save`] writes checkpoints, [`run`]
//! guards the folder. Charts, progress bars and the like are observers that the command line wires in.

pub mod batch;
pub mod chat;
pub mod config;
pub mod engine;
pub mod lanes;
pub mod objective;
pub mod run;
pub mod save;
pub mod source;
pub mod spike;
pub mod trainer;

pub use engine::Engine;
pub use trainer::{Findings, Job, Observer, Trainer, score_event};
