//! `taper sample`.

/// Arguments of `taper sample`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `taper sample`.
pub fn run(_args: Args) -> crate::Result<()> {
    Err(crate::Error::usage("not built yet"))
}
