//! From a config to a trained run: what is asked for is resolved, checked and opened, and then trained.
//!
//! [`prepare()`] does all that can be done before the first step: it takes the run folder, finds what a resumed run continues from,
//! opens or makes the tokenizer and the tokens, resolves what the config leaves open (the micro-batch, the lanes), and agrees with
//! the other processes. [`Prepared::train`] trains. Who watches (bars, charts, pushes) is handed in as observers, and what is said
//! goes to a [`crate::ui::Ui`]; so a program trains as `taper train` does:
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::atomic::AtomicBool;
//! use taper::config::Config;
//! use taper::{run, ui::Silent};
//!
//! let config = Config::load(Path::new("configs/quickstart.toml"), &["train.max_steps=100".into()])?;
//! let mut prepared = run::prepare(config, run::Options::default(), &Silent)?;
//! let trained = prepared.train(&mut [], &AtomicBool::new(false), &Silent)?;
//! println!("the loss of the last step was {:?}", trained.loss);
//! # taper::Result::Ok(())
//! ```

pub mod card;
pub mod chat;
pub mod finetune;
pub mod folder;
pub mod hardware;
mod memory;
pub mod prepare;
pub mod ranks;
mod resume;
pub mod source;
pub mod summary;
pub mod tasks;
mod training;

pub use folder::RunFolder;
pub use prepare::{Options, Prepared, prepare};
pub use ranks::{Supervision, join, supervise};
pub use training::Trained;
