//! The shape of a model: its numbers and options ([`config`]), how a config file gives them ([`section`]), the list of
//! its parameters ([`layout`]) and how they start ([`init`]), its adapters ([`lora`]), its sizes ([`count`]), and the
//! operators of a training step ([`step`]).

pub mod config;
pub mod count;
pub mod init;
pub mod layout;
pub mod lora;
pub mod section;
pub mod step;

pub use config::ModelConfig;
