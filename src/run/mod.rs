//! From a config to a trained run: what is asked for is resolved, checked and opened, and then trained.
//!
//! [`prepare()`] does all that can be done before the first step: it takes the run folder, finds what a resumed run continues from,
//! opens or makes the tokenizer and the tokens, resolves what the config leaves open (the micro-batch, the lanes), and
//! agrees with the other processes. [`Prepared::train`] trains. Who watches (bars, charts, pushes) is handed in as
//! observers, and what is said goes to a [`crate::ui::Ui`]; so a program trains as `taper train` does:
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//! use taper::config::Config;
//! use taper::{run, ui::Silent};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let text = folder.path().join("my.txt");
//! # std::fs::write(&text, "a small text, and another; ".repeat(20)).unwrap();
//! let config = Config::from_str(
//!     r#"
//!     model = { n_layer = 1, n_head = 1, n_embd = 8, context_length = 8 }
//!     tokenizer.kind = "bytes"
//!     data.val_fraction = 0.1
//!     train = { micro_batch = 2, global_batch = 2, max_steps = 2 }
//!     "#,
//!     "my.toml",
//!     &[format!("data.text=['{}']", text.display())],
//! )?;
//!
//! let options = run::Options { folder: Some(folder.path().join("run")), ..Default::default() };
//! let mut prepared = run::prepare(config, options, &Silent)?;
//! assert_eq!((prepared.max_steps, prepared.model.config().n_layer), (2, 1));
//! let trained = prepared.train(&mut [], &AtomicBool::new(false), &Silent)?;
//! assert!(trained.step == 2 && trained.loss.is_some_and(f64::is_finite));
//! # Ok::<(), taper::Error>(())
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
