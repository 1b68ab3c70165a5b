//! `docs/config.md`, generated from the structs: their doc comments, types and defaults.

use std::fmt::Write;

use super::Config;
use super::schema::{self, Key};
use super::write::literal;

const PREAMBLE: &str = "\
# The config file

This page is generated from the code (`TAPER_UPDATE_DOCS=1 cargo test --release --test cli`).

A run is described by one TOML file. It is complete: there are no includes, and a key that is left out has the default given
here. A key or section that does not exist is an error. Paths are relative to the folder in which the command is run.

Any key can be set on the command line: `taper train my.toml --set optimizer.lr=1e-3 --set schedule.kind=wsd`. The value is
read as TOML where it is TOML that fits, and as a plain string otherwise. Setting one of several keys that exclude each other
(`train.max_steps`, `max_tokens`, `epochs`; `data.text`, `shards`; `data.val`, `val_fraction`) drops what the file says under
the others.

The run folder gets a `config.toml` with every key written out, from which the run is resumed.
";

/// The page as Markdown.
pub fn markdown() -> String {
    let mut page = String::from(PREAMBLE);
    let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
    for section in schema::sections() {
        let _ = write!(page, "\n## [{}]\n\n{}\n\n", section.name, section.about);
        for key in &section.keys {
            let value = defaults.get(&section.name).and_then(|keys| keys.get(&key.name));
            page += &entry(key, value);
        }
    }
    page
}

/// One key: its name, what it accepts, its default, what it means, and its words.
fn entry(key: &Key, default: Option<&toml::Value>) -> String {
    let default = match (&key.default, default) {
        (Some(words), _) => words.clone(),
        (None, Some(value)) => format!("`{}`", literal(value)),
        (None, None) => "not set".into(),
    };
    // Words are listed below, with their meanings, where they have any.
    let listed = key.words.len() > 1 && key.words.iter().any(|(_, about)| !about.is_empty());
    let expected = if listed { "one of the words below" } else { &key.expected };
    let mut text = format!("- **`{}`**: {expected}. Default: {default}.\n", key.name);
    let _ = writeln!(text, "  {}", key.about);
    if listed {
        for (word, about) in &key.words {
            let _ = writeln!(text, "  - `\"{word}\"`: {about}");
        }
    }
    text
}
