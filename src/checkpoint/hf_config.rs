//! A folder's config.json, read key by key with errors that name the file and the key.
//!
//! A key that is absent or null takes the default that transformers gives it; a key of the wrong type is an error.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The keys of a config.json.
pub(super) struct HfConfig {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl HfConfig {
    /// Reads and parses the file.
    pub fn read(path: &Path) -> Result<HfConfig> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(keys)) => Ok(HfConfig::new(path, keys)),
            Ok(_) => Err(Error::data(path, "is not a JSON object, so it is no model's config")),
            Err(error) => Err(Error::data(path, format!("is not valid JSON: {error}"))),
        }
    }

    /// Keys that are in memory already; `path` is for messages.
    pub fn new(path: &Path, keys: Map<String, Value>) -> HfConfig {
        HfConfig { path: path.to_path_buf(), keys }
    }

    /// An error about this file.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::data(&self.path, message)
    }

    /// The value of a key that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(&self, key: &str, kind: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.error(format!("\"{key}\" is {value}, not {kind}"))),
        }
    }

    /// A size that must be there.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.size_or(key)?.ok_or_else(|| self.error(format!("the key \"{key}\" is missing")))
    }

    /// A size that may be absent.
    pub fn size_or(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number", |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    /// A number, or its default.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.typed(key, "a number", Value::as_f64)?.unwrap_or(default))
    }

    /// A switch, or its default.
    pub fn switch(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A text, or its default.
    pub fn text<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::String(text)) => Ok(text),
            Some(value) => Err(self.error(format!("\"{key}\" is {value}, not a text"))),
        }
    }

    /// The end-of-text token: a number, or the first of a list.
    pub fn eos(&self) -> Result<Option<u32>> {
        self.typed("eos_token_id", "a token id", |value| {
            let first = value.as_array().map_or(Some(value), |list| list.first())?;
            first.as_u64().and_then(|id| u32::try_from(id).ok())
        })
    }
}
