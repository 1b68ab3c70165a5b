//! The program under test, as a command. Use from the root of a test binary with `#[path = "../common/program.rs"] mod
//! program;`.
#![allow(dead_code)] // each binary uses its part

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// `taper` in `folder`: without the Hub, with nothing on standard input, and with two threads, since several tests run
/// at once.
pub fn taper(folder: impl AsRef<Path>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taper"));
    command.current_dir(folder).stdin(Stdio::null()).env("HF_HUB_OFFLINE", "1").env("RAYON_NUM_THREADS", "2");
    command
}

/// Runs a command; gives its exit code, standard output and standard error.
pub fn told(command: &mut Command) -> (i32, String, String) {
    told_by(&command.output().unwrap())
}

/// [`told`] of a command that reads `input` from standard input.
pub fn told_with(command: &mut Command, input: &[u8]) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // A command that fails early reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Exit code, standard output and standard error.
pub fn told_by(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}
