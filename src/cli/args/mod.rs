//! Arguments that several commands share.

pub mod formats;
pub mod sampler;
