//! The same GPT by the book, on candle with candle's autodiff: the oracle of the tests and a slow engine.
//!
//! Everything here is the textbook formula composed of candle's elementary operators, in float64 where exactness is wanted
//! and in float32 where it is to train. Nothing is fused and nothing is clever, so that when the engine and this module
//! disagree, the engine is wrong. `tests/engine/reference.rs` anchors this module itself to `transformers` and PyTorch.
//!
//! What is unusual: candle's own fused norms, `softmax_last_dim`, `rope` and `sigmoid` cut the gradient without a word, and
//! its `gelu` has a backward with six-digit constants. None of them may be used here; [`ops`] has the safe forms.

mod adamw;
mod model;
pub mod ops;

pub use adamw::{AdamWSettings, Moments, ReferenceTrainer, StepOutcome};
pub use model::{Precision, Reference};

use crate::error::{Error, Result};

/// candle's error as ours: it always means that a computation could not be done.
fn explain<T>(result: candle_core::Result<T>) -> Result<T> {
    result.map_err(|error| Error::Training(format!("the reference engine failed: {error}")))
}
