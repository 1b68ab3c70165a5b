//! The CUDA emulator itself: every planted fault is noticed, by name, and single instructions do what the manual says.

mod device;
mod faults;
mod probes;
