//! The Hugging Face Hub: models come from there and go there.
//!
//! The one idea: nothing that came over the wire is believed until it was checked. A file gets its name in the cache only
//! after its status, its size and its hash are right; a push counts only when the Hub's head says so. Everything else is
//! about continuing: a download continues at the byte where it broke off, an upload at the part, a commit whose answer was
//! lost is looked up rather than sent twice.
//!
//! From below: [`Settings`] (who, where, with which token), `http` (one request, its redirects and its repetitions), then
//! `remote` (what a repository holds), `cache` and `download` (the way in: [`pull`]), `lfs`, `plan` and `commit` (the way
//! out: [`push`]), and [`Background`] (pushes next to a training run).
//!
//! The layout of the cache is that of the Python client, so the two share what either has fetched; `hf_hub` names its
//! folders. The rest of that crate is not used: it stores the body of an error as a file, checks no byte, and cannot
//! upload without Xet. Xet itself is a feature of the build, on the Hub's own crate `hf-xet`.

mod address;
mod answer;
mod background;
mod cache;
mod commit;
pub mod config;
mod create;
mod dataset;
mod download;
mod http;
mod journal;
mod lfs;
mod plan;
mod pull;
mod push;
mod remote;
mod repo;
mod settings;
mod stream;
mod token;
#[cfg_attr(not(feature = "xet"), path = "no_xet.rs")]
mod xet;

pub use background::{Background, Finish, Pushed};
pub use dataset::{Selection, Streamed, pull_dataset, stream_dataset};
pub use http::Client;
pub use plan::{Plan, PlannedFile, PushOptions, Upload};
pub use pull::{Pulled, Want, pull, resolve, resolve_tokenizer};
pub use push::{PushResult, plan_push, push};
pub use repo::{Repo, is_hub_name, names_hub, no_such_path};
pub use settings::{Settings, TOKEN_VARIABLES};
pub use token::Token;
