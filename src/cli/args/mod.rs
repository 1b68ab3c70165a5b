//! Arguments that several commands share.

pub mod formats;
pub mod model;
pub mod sampler;
