//! Arguments that several commands share.

pub mod sampler;
