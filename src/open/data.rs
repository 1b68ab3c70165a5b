//! From a name to files of data: data sets on the Hub are fetched.

use crate::data::config::DataConfig;
use crate::error::{Error, Result};
use crate::hub::{self, Client, Pulled, Repo, Selection, Settings};
use crate::ui::Ui;

/// The `[data]` section with files on this machine in place of data sets on the Hub, which are fetched into the cache:
/// `text` is the training split, `val` the validation split, `shards` every `.bin` file.
///
/// # Errors
/// As [`hub::pull_dataset`]; `Usage` for a path that is not there.
pub fn data_section(section: &DataConfig, ui: &dyn Ui) -> Result<DataConfig> {
    let mut section = section.clone();
    if let Some(name) = &section.shards {
        if let Some(folder) = shards_on_hub(name, ui)? {
            section.shards = Some(folder);
        }
        return Ok(section);
    }
    section.text = data_inputs(&section.text, "train", ui)?;
    section.val = data_inputs(&section.val, "validation", ui)?;
    Ok(section)
}

/// Inputs with the files of a split in place of `OWNER/NAME`, a data set on the Hub.
///
/// # Errors
/// As [`data_section`].
pub fn data_inputs(inputs: &[String], split: &str, ui: &dyn Ui) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for input in inputs {
        if let Some(error) = hub::no_such_path(input, "data set", "taper data pull") {
            return Err(error);
        }
        if !hub::names_hub(input) {
            all.push(input.clone());
            continue;
        }
        let selection = Selection { split: split.into(), ..Selection::default() };
        let pulled = dataset_on_hub(input, &selection, ui)?;
        all.extend(pulled.files.iter().map(|file| pulled.folder.join(file).to_string_lossy().into_owned()));
    }
    Ok(all)
}

/// The folder of token shards that a name on the Hub stands for; `None` for a path.
fn shards_on_hub(name: &str, ui: &dyn Ui) -> Result<Option<String>> {
    if let Some(error) = hub::no_such_path(name, "data set", "taper data pull") {
        return Err(error);
    }
    if !hub::names_hub(name) {
        return Ok(None);
    }
    let selection = Selection { files: Some("**/*.bin".into()), ..Selection::default() };
    let pulled = dataset_on_hub(name, &selection, ui)?;
    let first = pulled.files.first().map(|file| pulled.folder.join(file));
    Ok(first.and_then(|file| Some(file.parent()?.to_string_lossy().into_owned())))
}

fn dataset_on_hub(name: &str, selection: &Selection, ui: &dyn Ui) -> Result<Pulled> {
    let client = Client::new(Settings::from_env()?);
    hub::pull_dataset(&client, &Repo::dataset(name)?, selection, ui).map_err(|error| match error {
        Error::Hub(message) => Error::Hub(format!("there is no file or folder {name} here, and {message}")),
        error => error,
    })
}
