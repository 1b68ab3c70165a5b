//! From a name to a tokenizer.

use std::path::Path;

use crate::checkpoint::store::CHECKPOINTS;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokenizer::config::TokenizerConfig;
use crate::error::{Error, Result};
use crate::hub;
use crate::open::locate::locate_here;
use crate::ui::Ui;

/// The tokenizer that a name stands for: gpt2, bytes, a file, a folder, a run, or `OWNER/NAME` on the Hub.
///
/// # Errors
/// As [`Tokenizer::from_name_or_path`], and as [`hub::pull`].
pub fn tokenizer(name: &str, ui: &dyn Ui) -> Result<Tokenizer> {
    let found = hub::resolve_tokenizer(name, ui)?;
    let found = match found.join(CHECKPOINTS).is_dir() {
        true => locate_here(name)?,
        false => found,
    };
    Tokenizer::from_name_or_path(found.to_str().unwrap_or(name))
}

/// The `[tokenizer]` section with a path on this machine in place of `OWNER/NAME`.
///
/// # Errors
/// As [`tokenizer`].
pub fn tokenizer_section(section: &TokenizerConfig, ui: &dyn Ui) -> Result<TokenizerConfig> {
    let mut section = section.clone();
    if let Some(path) = &section.path {
        let found = hub::resolve_tokenizer(path, ui)?;
        let found = if found.join(CHECKPOINTS).is_dir() { locate_here(path)? } else { found };
        section.path = Some(found.to_str().unwrap_or(path).to_string());
    }
    Ok(section)
}

/// The tokenizer of a model folder.
///
/// # Errors
/// `Usage` if there is none; whatever is wrong with its files.
pub fn folder_tokenizer(folder: &Path) -> Result<Tokenizer> {
    let has = |name: &str| folder.join(name).is_file();
    if has("tokenizer.json") || (has("vocab.json") && has("merges.txt")) {
        return Tokenizer::from_file(folder);
    }
    Err(Error::usage(format!(
        "{} has no tokenizer.json (nor vocab.json with merges.txt), so its tokens mean nothing; say which tokenizer it was trained with: \
         --tokenizer gpt2, bytes, or a tokenizer.json",
        folder.display()
    )))
}
