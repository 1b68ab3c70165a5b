//! `taper` trains GPT-2-class language models from scratch and runs them.
//!
//! The library under the `taper` command. Modules stand in layers, and each may use only those below it
//! (`tests/architecture` holds the table and checks it):
//!
//! - [`error`], [`ui`]: errors for people; what the library says to them while it works.
//! - [`math`], [`random`]: our own exp, log, sin; Philox random numbers as functions.
//! - [`device`], [`tensor`], [`tape`]: where numbers live, typed buffers, and the record of a step that runs backwards.
//! - [`ops`]: every numerical operator, each a fused forward with its own backward.
//! - [`nn`], [`model`], [`optim`]: layers, the GPT family, AdamW and learning-rate schedules.
//! - [`collective`]: several processes that train one model.
//! - [`data`]: tokenizers, token shards, preparation, the resumable loader.
//! - [`decode`]: logits of growing sequences, side by side.
//! - [`eval`], [`sample`], [`checkpoint`], [`train`]: what is done with a model.
//! - [`serve`]: a model behind an HTTP address.
//! - [`config`], [`events`], [`report`], [`card`]: what is asked for, what happened, and how it is told.
//! - [`hub`]: models and data sets of the Hugging Face Hub, pulled and pushed.
//! - [`open`]: from a name to a model, a tokenizer, data.
//! - [`mod@run`]: from a config to a trained run.
//! - [`stats`], [`sweep`]: small-sample statistics, and many runs compared by them.
//! - [`plan`]: memory, time and cost of a run on GPUs, predicted.
//! - [`mod@reference`]: the same GPT written by the book on candle, the oracle of the tests.
//! - [`cli`]: arguments in, library calls, text out; nothing else prints.
//!
//! A program that trains or generates stands in `examples/`: [`run::prepare()`] and [`run::Prepared::train`],
//! [`open::open()`] and
//! [`sample::generate_all`].

pub mod arch;
pub mod card;
pub mod checkpoint;
pub mod cli;
pub mod collective;
pub mod config;
pub mod data;
pub mod decode;
pub mod device;
pub mod error;
pub mod eval;
pub mod events;
pub mod hub;
pub mod math;
pub mod model;
pub mod nn;
pub mod open;
pub mod ops;
pub mod optim;
pub mod parallel;
pub mod plan;
pub mod random;
pub mod reference;
pub mod report;
pub mod run;
pub mod sample;
pub mod serve;
pub mod setting;
pub mod stats;
pub mod sweep;
pub mod tape;
pub mod tensor;
pub mod train;
pub mod ui;

pub use error::{Error, Result};
