//! `taper model`.

/// Subcommands of `taper model`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {}

/// Runs `taper model`.
pub fn run(command: Command) -> crate::Result<()> {
    match command {}
}
