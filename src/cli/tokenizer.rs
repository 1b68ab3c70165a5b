//! `taper tokenizer`.

/// Subcommands of `taper tokenizer`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {}

/// Runs `taper tokenizer`.
pub fn run(command: Command) -> crate::Result<()> {
    match command {}
}
