//! What is read and written: text and shards, tokenizers, model folders, and the formats of others.

#[path = "../data/mod.rs"]
mod data;
mod export;
#[path = "../common/fixtures.rs"]
mod fixtures;
#[path = "../common/folders.rs"]
mod folders;
mod interop;
mod model_folder;
mod model_folder_faults;
#[path = "../common/program.rs"]
mod program;
#[path = "../tokenizer/mod.rs"]
mod tokenizer;
