//! The shape of a model: its numbers and options ([`config`]), how a config file gives them ([`section`]), the list of its
//! parameters ([`layout`]) and how they start ([`init`]), its adapters ([`lora`]), and its sizes ([`count`]).

pub mod config;
pub mod count;
pub mod init;
pub mod layout;
pub mod lora;
pub mod section;

pub use config::ModelConfig;
