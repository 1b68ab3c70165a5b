//! The GPT family, run on a tape: embeddings, blocks, output layer ([`gpt`]). Its shape is [`crate::arch`]'s.

pub mod gpt;

pub use gpt::Gpt;
