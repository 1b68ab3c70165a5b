//! The whole engine (`model::Gpt`, the tape, the optimizer) against independent truths, and against itself where it
//! promises the same bits.
//!
//! - [`transformers`]: logits, loss, every gradient and 20 AdamW steps, from the fixtures of `scripts/make_fixtures.py`;
//! - [`options`]: every combination of architecture options against the reference engine in float64;
//! - [`dropout`]: the masks of a whole model, against a model in candle that multiplies by them one by one;
//! - [`decode`]: the key-value cache against whole sequences;
//! - [`adapters`]: LoRA, its gradients and merging, and the files of peft;
//! - [`documents`]: several in a row against each alone;
//! - [`objective`]: weights of tokens, and steps in which little or nothing counts;
//! - [`bf16`]: the same steps with activations in bf16;
//! - [`ready`]: when a parameter's gradient is complete, and sums over ranks that are sent then;
//! - [`rows`]: rows of the engine beyond the vocabulary change nothing;
//! - [`bits`]: recomputation and the number of threads change nothing at all.

mod adapters;
mod bf16;
mod bits;
mod common;
mod decode;
mod documents;
mod dropout;
#[path = "../common/fixtures.rs"]
mod fixtures;
mod golden;
#[path = "../common/models.rs"]
mod models;
mod objective;
#[path = "../ops/mod.rs"]
mod ops;
mod options;
mod ready;
mod reference;
mod rows;
mod transformers;
