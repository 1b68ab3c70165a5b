//! The CUDA emulator itself: every planted fault is noticed, by name, and single instructions do what the manual says.

#[path = "emulator/device.rs"]
mod device;
#[path = "common/emulator.rs"]
mod emulator;
#[path = "emulator/faults.rs"]
mod faults;
#[path = "emulator/probes.rs"]
mod probes;
