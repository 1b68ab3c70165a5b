//! `--set section.key=value`: one key changed on the command line.
//!
//! The value is read as TOML where it is TOML that fits the key, and as a plain string otherwise, so that `--set
//! schedule.kind=wsd` needs no quotes inside quotes. An override takes the place of the file's value, and also of what
//! the file says under a key that excludes it: `--set train.max_tokens=1e6` on a file with `max_steps` just works.

use super::parse::{Entry, Place, misfit};
use super::{names, schema};
use crate::error::{Error, Result};

/// Keys of which a config has at most one.
const ALTERNATIVES: [&[&str]; 4] = [
    &["data.text", "data.shards"],
    &["data.val", "data.val_fraction"],
    &["train.max_steps", "train.max_tokens", "train.epochs"],
    &["schedule.decay_steps", "schedule.decay_fraction"],
];

/// Applies the overrides in order; the last one for a key wins.
///
/// # Errors
/// `Usage`, beginning with the override: no `=`, an unknown key, a value that does not fit.
pub(super) fn apply(entries: &mut Vec<Entry>, overrides: &[String]) -> Result<()> {
    for given in overrides {
        let shown = format!("--set {}", names::shown(given));
        let entry = read(given, &shown).map_err(|message| Error::usage(format!("{shown}: {message}")))?;
        let path = entry.path();
        entries.retain(|other| {
            let from_file = matches!(other.place, Place::File(_));
            let excluded = |keys: &&[&str]| keys.contains(&&path[..]) && keys.contains(&&other.path()[..]);
            other.path() != path && !(from_file && ALTERNATIVES.iter().any(excluded))
        });
        entries.push(entry);
    }
    Ok(())
}

/// One override as an entry, or what is wrong with it.
fn read(given: &str, shown: &str) -> Result<Entry, String> {
    let Some((path, text)) = given.split_once('=') else {
        return Err("an override is written section.key=value".into());
    };
    let (path, text) = (path.trim(), text.trim());
    let Some((section, name)) = path.split_once('.') else {
        return Err(match schema::find(path) {
            Some(section) => {
                format!("[{path}] is a section, and an override sets one of its keys: {}", names::keys(section))
            }
            None => names::outside(path),
        });
    };
    let (section_name, name) = (section.trim(), name.trim());
    let section = schema::find(section_name).ok_or_else(|| names::unknown_section(section_name))?;
    let key = section.key(name).ok_or_else(|| names::unknown_key(section, name))?;

    let entry = |value| Entry { section, key, value, place: Place::Override(shown.into()) };
    let plain = entry(toml::Value::String(text.into()));
    let Some(typed) = value(text).map(entry) else {
        return misfit(&plain).map_or(Ok(plain), Err);
    };
    match misfit(&typed) {
        None => Ok(typed),
        // `--set run.name=2024` is a number in TOML and a name here.
        Some(_) if misfit(&plain).is_none() => Ok(plain),
        Some(message) => Err(message),
    }
}

/// The text as a TOML value, if it is exactly one.
fn value(text: &str) -> Option<toml::Value> {
    // Parsed as the value alone, so that a line break cannot smuggle in another key.
    use serde::Deserialize;
    toml::Value::deserialize(toml::de::ValueDeserializer::parse(text).ok()?).ok()
}
