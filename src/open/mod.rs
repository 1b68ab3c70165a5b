//! From a name to what it stands for: a model, a tokenizer, data. A name means the same in every command and in every
//! program.
//!
//! A model is a model folder (a checkpoint, or one that transformers saved), or a run folder, which stands for its best
//! checkpoint, else its newest; or `OWNER/NAME`, a model on the Hub, which is fetched into the cache. What is fetched
//! shows its progress through [`crate::ui::Ui`].

pub mod data;
pub mod locate;
pub mod model;
pub mod tokenizer;

pub use data::{data_inputs, data_section};
pub use locate::{locate, locate_here};
pub use model::{Dtype, EngineKind, OpenOptions, Opened, open, read, reference};
pub use tokenizer::{tokenizer, tokenizer_section};
