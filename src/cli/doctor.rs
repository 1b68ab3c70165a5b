//! `taper doctor`.

/// Arguments of `taper doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `taper doctor`.
pub fn run(_args: Args) -> crate::Result<()> {
    Err(crate::Error::usage("not built yet"))
}
