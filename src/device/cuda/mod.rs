//! A real GPU, by cudarc's raw bindings. Nothing links CUDA: libraries are found and loaded when a GPU is asked for.
//!
//! cudarc panics on a missing library or symbol, so each library is looked up and loaded first, by full path, and only
//! symbols that every supported driver has are called. The thread that calls may be any: the context is made current on
//! each call, which costs nanoseconds.

mod answer;
mod blas;
mod compile;
mod driver;
mod graph;
mod libraries;
mod side;

pub use compile::{CompileFacts, compile_all};
pub use driver::CudaDriver;
pub use libraries::{Library, Loaded, driver as find_driver, libraries, open as open_library};

/// The oldest CUDA version a driver may support: 12.0, which is driver 525.
pub const MINIMUM_CUDA: i32 = 12_000;
