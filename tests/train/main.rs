//! The main job, through the binary: runs, resumes, stops, bad input. Models are tiny; what is tested is what happens.

mod bad_input;
mod before;
mod chat;
mod common;
mod lora;
#[cfg(feature = "mpi")]
mod mpi;
#[path = "../common/program.rs"]
mod program;
mod ranks;
mod resume;
mod rollback;
mod runs;
mod stability;
