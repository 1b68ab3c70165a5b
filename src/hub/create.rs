//! The repository itself: made if it is not there.

use serde_json::json;

use super::answer::Failure;
use super::http::{Auth, Client, Request, Tries};
use super::repo::Repo;
use crate::ui::Ui;

/// Makes sure that the repository exists. One that is there already keeps its visibility; asking for a private one where a
/// public one stands is refused, because everything pushed would be for all to see.
pub(super) fn ensure(client: &Client, repo: &Repo, private: bool) -> Result<(), Failure> {
    let mut body = json!({"name": repo.name(), "organization": repo.owner()});
    if repo.kind() != "model" {
        body["type"] = json!(repo.kind());
    }
    if private {
        body["visibility"] = json!("private");
    }
    let body = body.to_string();
    let request = Request::json("/api/repos/create", body.as_bytes());
    let mut tries = Tries::new(client);
    let failure = loop {
        match client.send(&request) {
            Ok(_) => return Ok(()),
            Err(Failure::Status { status: 409, message, .. })
                if message.contains("conflicting operation is in progress") =>
            {
                tries
                    .after(Failure::Network("the Hub is still busy with another repository of this account".into()))?;
            }
            Err(failure) => break failure,
        }
    };
    // It is there; or we may not make it, but perhaps fill it.
    if !matches!(failure.status(), Some(401 | 402 | 403 | 409)) {
        return Err(failure);
    }
    let mut request = Request::new("GET", repo.api());
    request.auth = Auth::Writing;
    let info = match client.json(&request) {
        Ok((_, info)) => info,
        Err(_) if failure.status() != Some(409) => return Err(failure),
        Err(other) => return Err(other),
    };
    if private && info["private"].as_bool() == Some(false) {
        return Err(Failure::Refused(format!(
            "{} exists and is public, so --private would push for all to see; make it private in its settings on the Hub, \
             or leave --private out",
            repo.id()
        )));
    }
    Ok(())
}

/// Has the Hub check a model card before anything is sent.
pub(super) fn check_card(client: &Client, repo: &Repo, card: &str, ui: &dyn Ui) -> Result<(), Failure> {
    let body = json!({"content": card, "repoType": repo.kind()}).to_string();
    let list = |value: &serde_json::Value| {
        let all = value.as_array().into_iter().flatten();
        client.hidden(&all.filter_map(|one| one["message"].as_str()).collect::<Vec<_>>().join("; "))
    };
    let said = match client.json(&Request::json("/api/validate-yaml", body.as_bytes())) {
        Ok((_, said)) => said,
        // Not every server that speaks the Hub's language checks cards.
        Err(Failure::Status { status: 404 | 405 | 501, .. }) => {
            ui.note("README.md: this Hub does not check model cards");
            return Ok(());
        }
        Err(Failure::Status { status: 400, message, .. }) => {
            return Err(Failure::Refused(format!("README.md: the Hub refuses its front matter: {message}")));
        }
        Err(failure) => return Err(failure),
    };
    let (errors, warnings) = (list(&said["errors"]), list(&said["warnings"]));
    if !errors.is_empty() {
        return Err(Failure::Refused(format!("README.md: the Hub refuses its front matter: {errors}")));
    }
    if !warnings.is_empty() {
        ui.note(&format!("README.md: the Hub warns: {warnings}"));
    }
    Ok(())
}
