//! What differs between runs: the keys of their configs and of the machines they ran on that are not the same everywhere.
//!
//! Configs are compared as the text of their resolved config.toml, key by key, so that runs of another version, with keys
//! that this one does not know, can be compared too.

use super::Run;
use serde::Serialize;
use std::collections::BTreeMap;

/// A key that is not the same in all runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `optimizer.lr`, or `environment.device`.
    pub key: String,
    /// Its value in each run, in the order of the runs, as the file spells it; `None` where it is not set.
    pub values: Vec<Option<String>>,
}

/// Names of runs: they differ, and say nothing.
const NAMES: [&str; 2] = ["run.name", "run.dir"];
/// What an environment says that may explain a difference of results.
const ENVIRONMENT: [&str; 9] =
    ["taper", "commit", "os", "arch", "device", "hardware_kind", "threads", "precision", "world_size"];

/// The differences between runs: of configs in the order of their keys, then of environments.
pub fn differences(runs: &[Run]) -> Vec<Difference> {
    let configs: Vec<_> = runs.iter().map(|run| run.config.as_deref().map_or_else(BTreeMap::new, flatten)).collect();
    let environments: Vec<_> =
        runs.iter().map(|run| run.environment.as_deref().map_or_else(BTreeMap::new, environment)).collect();
    [configs, environments].iter().flat_map(|tables| compare(tables)).collect()
}

fn compare(tables: &[BTreeMap<String, String>]) -> Vec<Difference> {
    let keys: std::collections::BTreeSet<&String> = tables.iter().flat_map(BTreeMap::keys).collect();
    let of = |key: &String| Difference {
        key: key.clone(),
        values: tables.iter().map(|table| table.get(key).cloned()).collect(),
    };
    let differs = |difference: &Difference| difference.values.iter().any(|value| *value != difference.values[0]);
    keys.into_iter().map(of).filter(differs).collect()
}

/// The keys of a TOML file with dots between the names of tables, each with its value as TOML. A text that is not TOML has
/// none.
pub fn flatten(text: &str) -> BTreeMap<String, String> {
    fn walk(prefix: &str, table: &toml::Table, flat: &mut BTreeMap<String, String>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                toml::Value::Table(inner) => walk(&key, inner, flat),
                _ if NAMES.contains(&&*key) => {}
                value => {
                    flat.insert(key, value.to_string());
                }
            }
        }
    }
    let mut flat = BTreeMap::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        walk("", &table, &mut flat);
    }
    flat
}

fn environment(text: &str) -> BTreeMap<String, String> {
    let Ok(serde_json::Value::Object(object)) = serde_json::from_str(text) else { return BTreeMap::new() };
    let known = object.into_iter().filter(|(key, value)| ENVIRONMENT.contains(&&**key) && !value.is_null());
    let plain = |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    known.map(|(key, value)| (format!("environment.{key}"), plain(value))).collect()
}
