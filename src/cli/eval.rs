//! `taper eval`.

/// Arguments of `taper eval`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `taper eval`.
pub fn run(_args: Args) -> crate::Result<()> {
    Err(crate::Error::usage("not built yet"))
}
