//! Formats of files: those of Hugging Face, llama.cpp, llm.c and `peft`.

pub mod gguf;
pub mod llmc;
pub mod peft;
pub mod safetensors;
