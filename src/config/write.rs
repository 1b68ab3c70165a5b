//! The config as a file again, as a fingerprint, and compared with another.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::Config;
use super::schema::{self, Key, Section};
use crate::train::config::Spike;

/// Sections and keys that leave the trained weights as they are: names and places, when something is measured, saved or
/// shown, and what trades memory for time at the same bits. They do not enter [`Config::hash`], and a resumed run may
/// change them.
const NOT_DETERMINING: &[&str] = &[
    "run.name",
    "run.dir",
    "run.device",
    "train.log_every",
    "train.recompute",
    "stability.max_consecutive_skips",
    "stability.spike",
    "stability.spike_window",
    "stability.spike_threshold",
    "dist.shard_optimizer",
    "dist.bucket_mb",
    "dist.timeout",
    "eval",
    "checkpoint",
    "sample",
    "push",
];

/// A key whose value differs between two configs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key as `section.key`.
    pub key: String,
    /// The value in the first config, as TOML writes it; `None` where it is not set.
    pub before: Option<String>,
    /// The value in the second config.
    pub after: Option<String>,
    /// Whether the key can change the trained weights.
    pub determines: bool,
}

/// Keys that determine all the same where a run goes back after spikes: they say when, and where to.
const DETERMINING_ROLLBACKS: &[&str] =
    &["stability.spike", "stability.spike_window", "stability.spike_threshold", "checkpoint.every"];

impl Config {
    /// The config as TOML: every section and key in the order of the documentation, and keys that are not set as comments.
    /// Reading it back gives the same config, and writing that the same text.
    pub fn to_toml(&self) -> String {
        let mut text = String::from("# Every key of the run, as resolved. docs/config.md says what they mean.\n");
        let values = self.values();
        for section in schema::sections() {
            let _ = writeln!(text, "\n[{}]", section.name);
            for key in &section.keys {
                let _ = match value(&values, section, key) {
                    Some(value) => writeln!(text, "{} = {}", key.name, literal(value)),
                    None => writeln!(text, "# {} is not set", key.name),
                };
            }
        }
        text
    }

    /// A fingerprint (SHA-256 in hexadecimal) of all keys that determine the trained weights, given the data. Take it
    /// when the config is fully resolved: the vocabulary and an automatic micro-batch are part of it. Not part of it
    /// are the names and places of the run, when it evaluates, samples, saves, logs and pushes, and `train.recompute`.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        let values = self.values();
        for (section, key) in keys().filter(|(section, key)| self.determines(section, key)) {
            if let Some(value) = value(&values, section, key) {
                hasher.update(format!("{}.{} = {}\n", section.name, key.name, literal(value)));
            }
        }
        hasher.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The keys whose values differ in `after`, in the order of the documentation.
    pub fn differences(&self, after: &Config) -> Vec<Difference> {
        let (ours, theirs) = (self.values(), after.values());
        let pairs = keys().map(|(section, key)| {
            let [was, is] = [&ours, &theirs].map(|values| value(values, section, key).map(literal));
            let determines = self.determines(section, key) || after.determines(section, key);
            let key_path = format!("{}.{}", section.name, key.name);
            Difference { key: key_path, before: was, after: is, determines }
        });
        pairs.filter(|pair| pair.before != pair.after).collect()
    }

    /// Whether a key can change the trained weights.
    fn determines(&self, section: &Section, key: &Key) -> bool {
        let path = format!("{}.{}", section.name, key.name);
        let back = self.stability.spike == Spike::Rollback && DETERMINING_ROLLBACKS.contains(&&*path);
        back || !NOT_DETERMINING.iter().any(|name| *name == section.name || *name == path)
    }

    fn values(&self) -> toml::Table {
        // Nothing in a config can fail to be written: its maps have string keys, and its integers fit (see `validate`).
        // Seeds beyond that range, set from code, are the caller's mistake.
        toml::Table::try_from(self).expect("a config can be written as TOML")
    }
}

/// A value as TOML writes it. Very small and very large floats keep their exponent; every float reads back exactly.
pub(super) fn literal(value: &toml::Value) -> String {
    match value {
        toml::Value::Float(number) if number.is_finite() && *number != 0.0 && !(1e-4..1e15).contains(&number.abs()) => {
            format!("{number:e}")
        }
        _ => value.to_string(),
    }
}

fn keys() -> impl Iterator<Item = (&'static Section, &'static Key)> {
    schema::sections().iter().flat_map(|section| section.keys.iter().map(move |key| (section, key)))
}

fn value<'a>(values: &'a toml::Table, section: &Section, key: &Key) -> Option<&'a toml::Value> {
    let value = values.get(&section.name)?.get(&key.name)?;
    // An empty list is the default of the lists that may be left out.
    value.as_array().is_none_or(|list| !list.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_do_not_determine_exist() {
        for name in NOT_DETERMINING.iter().chain(DETERMINING_ROLLBACKS) {
            let known = schema::find(name).is_some() || keys().any(|(s, k)| format!("{}.{}", s.name, k.name) == *name);
            assert!(known, "{name}");
        }
    }
}
