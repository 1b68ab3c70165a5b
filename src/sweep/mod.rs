//! Sweeps: one config trained in several variants with several seeds, and what the differences are worth.
//!
//! The way of a sweep: [`config`] reads SWEEP.toml into arms and checks every run's config before anything starts; [`plan`]
//! lists the runs and guesses what they cost; [`runner`] trains them one after another, each in a process of its own, so
//! that a failure stays in its run; [`results`] reads the run folders; [`ablation`] compares arms with the baseline;
//! [`views`] draws; [`report`] writes the text, the page and the JSON.
//!
//! The one idea: *the run folders are the state*. A sweep that was killed is started again by the same command; finished
//! runs are known by the end of their event log, half-made ones continue from their last checkpoint. More seeds or arms are
//! added by writing them into the file.

pub mod ablation;
pub mod config;
pub mod jobs;
pub mod plan;
pub mod report;
pub mod results;
pub mod runner;
pub mod scaling;
pub mod views;

pub use config::Sweep;
