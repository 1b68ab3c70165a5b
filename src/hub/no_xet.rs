//! What stands in for `xet` in a build without that feature, which offers no Xet: nothing.

use super::answer::Failure;
use super::http::Client;
use super::plan::PlannedFile;
use super::repo::Repo;
use crate::ui::Ui;

/// Refuses, since this build has no Xet.
pub(super) fn upload(_: &Client, repo: &Repo, _: bool, _: &[&PlannedFile], _: &dyn Ui) -> Result<(), Failure> {
    Err(Failure::Refused(format!("{repo}: large files by Xet need a build with --features xet")))
}
