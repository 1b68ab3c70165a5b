//! `taper data`.

/// Subcommands of `taper data`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {}

/// Runs `taper data`.
pub fn run(command: Command) -> crate::Result<()> {
    match command {}
}
