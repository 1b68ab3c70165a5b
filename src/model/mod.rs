//! The GPT family: its shape ([`config`]), its layers in order ([`gpt`]), its sizes ([`count`]).

pub mod config;
pub mod count;
pub mod gpt;
pub mod layout;
pub mod lora;
pub mod section;

pub use config::ModelConfig;
pub use gpt::Gpt;
