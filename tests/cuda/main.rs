//! The CUDA engine against the CPU engine: every operator, the whole training step, sampling, a whole run.
//!
//! The same tests run on every device at hand: an emulated GPU where there is a C++ compiler, and a real one where there
//! is one. What is missing is skipped with a printed line.

mod chat;
mod compare;
mod decode;
mod emulated;
#[path = "../common/emulator.rs"]
mod library;
mod long;
mod memory;
mod models;
mod nvrtc;
mod operators;
mod products;
mod ranks;
mod runs;
mod sampling;
#[path = "../common/models.rs"]
mod shapes;
mod step;

use std::sync::OnceLock;

use taper::cli::run_command_line;
use taper::device::Device;

/// Memory of the emulated GPU.
const ROOM: usize = 1 << 30;

/// Runs a command line in this process, where the emulated GPU is known; gives its exit code.
pub fn taper(words: &[&str]) -> u8 {
    run_command_line(std::iter::once("taper").chain(words.iter().copied()).map(Into::into))
}

/// The devices to test, with a word for each.
pub fn devices() -> &'static [(String, Device)] {
    static DEVICES: OnceLock<Vec<(String, Device)>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let mut devices = Vec::new();
        if let Some(library) = library::library() {
            devices.push(("emulated".into(), emulated::Emulated::device(library, ROOM)));
        }
        match Device::parse("cuda") {
            Ok(device) => devices.push(("real".into(), device)),
            Err(error) => println!("skipped on a real GPU: {error}"),
        }
        devices
    })
}
