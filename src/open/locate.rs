//! From a name to a model folder.

use std::path::{Path, PathBuf};

use crate::checkpoint::adapter;
use crate::checkpoint::store::{CHECKPOINTS, Store};
use crate::error::{Error, Result};
use crate::hub;
use crate::ui::Ui;

/// The model folder that `model` stands for; a model on the Hub is fetched first.
///
/// # Errors
/// `Usage` if it is no model folder, no run with a checkpoint; as [`hub::pull`] if it is `OWNER/NAME`.
pub fn locate(model: &str, ui: &dyn Ui) -> Result<PathBuf> {
    let found = hub::resolve(model, ui)?;
    locate_here(found.to_str().unwrap_or(model))
}

/// [`locate`] without the Hub.
///
/// # Errors
/// `Usage` if it is no model folder and no run with a checkpoint.
pub fn locate_here(model: &str) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.join("config.json").is_file() || adapter::is_adapter(path) {
        return Ok(path.to_path_buf());
    }
    let run = path.is_dir().then(|| Store::of_run(path));
    if let Some(store) = &run
        && let Some(step) = store.pointed("best").or(store.steps()?.last().copied())
    {
        return Ok(store.path(step));
    }
    Err(Error::usage(match run {
        Some(_) if path.join(CHECKPOINTS).is_dir() || path.join("config.toml").is_file() => format!(
            "the run {model} has no checkpoint yet; resume it with `taper train {} --resume`",
            path.join("config.toml").display()
        ),
        Some(_) => format!(
            "{model} is not a model: it has neither a config.json (a model folder) nor checkpoints/ (a run folder)"
        ),
        None if path.is_file() => format!("{model} is a file; name the model folder that holds it"),
        None => format!("there is no folder {model}; give a model folder or a run folder such as runs/quickstart"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Silent;

    #[test]
    fn what_is_not_a_model_is_answered_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| locate(&path.to_string_lossy(), &Silent).unwrap_err().to_string();
        assert!(told(folder.path()).contains("neither a config.json"));
        std::fs::create_dir(folder.path().join(CHECKPOINTS)).unwrap();
        assert!(told(folder.path()).contains("no checkpoint yet"));
        assert!(locate("runs/x/y", &Silent).unwrap_err().to_string().contains("no folder"));
        assert!(told(Path::new("Cargo.toml")).contains("is a file"));
    }

    #[test]
    fn a_run_stands_for_its_best_checkpoint_else_its_newest() {
        let run = tempfile::tempdir().unwrap();
        let store = Store::of_run(run.path());
        for step in [5, 10] {
            store
                .save(step, |folder| {
                    std::fs::write(folder.join("config.json"), "{}").map_err(Error::io("write", folder))
                })
                .unwrap();
        }
        let name = run.path().to_string_lossy();
        assert_eq!(locate(&name, &Silent).unwrap(), store.path(10));
        store.point("best", 5).unwrap();
        assert_eq!(locate(&name, &Silent).unwrap(), store.path(5));
        assert_eq!(locate(&store.path(10).to_string_lossy(), &Silent).unwrap(), store.path(10));
    }
}
