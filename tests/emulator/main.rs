//! The CUDA emulator itself: every planted fault is noticed, by name, and single instructions do what the manual says.
//!
//! A binary of its own: planted faults reach beyond their allocations, where other tests would have theirs.

mod device;
mod faults;
#[path = "../common/emulator.rs"]
mod library;
mod probes;
