//! `taper train`.

/// Arguments of `taper train`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `taper train`.
pub fn run(_args: Args) -> crate::Result<()> {
    Err(crate::Error::usage("not built yet"))
}
