//! `taper report`.

/// Arguments of `taper report`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `taper report`.
pub fn run(_args: Args) -> crate::Result<()> {
    Err(crate::Error::usage("not built yet"))
}
