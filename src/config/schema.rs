//! The sections and keys of a config, read off the structs themselves: names, types, defaults and doc comments.
//!
//! `schemars` derives a JSON Schema from the same definitions that serde parses. This module boils it down to what messages
//! and documentation need. Two extensions carry what JSON Schema cannot say: `x-expected`, the form of a value in words, and
//! `x-default`, the default of an optional key in words.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::Config;

/// One section.
#[derive(Debug)]
pub struct Section {
    /// Its name, without brackets.
    pub name: String,
    /// The struct's doc comment.
    pub about: String,
    /// Its keys, in the order of the struct.
    pub keys: Vec<Key>,
}

/// One key of a section.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// What a value must be: "a number", "one of \"a\", \"b\"".
    pub expected: String,
    /// The default in words, where it depends on something else.
    pub default: Option<String>,
    /// The field's doc comment.
    pub about: String,
    /// The words that an enumeration accepts, with their doc comments; empty for other types.
    pub words: Vec<(String, String)>,
}

impl Section {
    /// The key called `name`.
    pub fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// All sections, in the order of the contract.
pub fn sections() -> &'static [Section] {
    static SECTIONS: OnceLock<Vec<Section>> = OnceLock::new();
    SECTIONS.get_or_init(|| {
        let schema = schemars::schema_for!(Config).to_value();
        let definitions = schema["$defs"].as_object().cloned().unwrap_or_default();
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        properties.iter().map(|(name, property)| section(name, property, &definitions)).collect()
    })
}

/// The section called `name`.
pub fn find(name: &str) -> Option<&'static Section> {
    sections().iter().find(|section| section.name == name)
}

fn section(name: &str, property: &Value, definitions: &Map<String, Value>) -> Section {
    let schema = follow(property, definitions);
    let keys =
        schema["properties"].as_object().map(|keys| keys.iter().map(|(name, schema)| key(name, schema, definitions)));
    Section { name: name.into(), about: text(&schema["description"]), keys: keys.into_iter().flatten().collect() }
}

fn key(name: &str, property: &Value, definitions: &Map<String, Value>) -> Key {
    let schema = follow(property, definitions);
    let words = words(schema);
    Key {
        name: name.into(),
        expected: expected(property, schema, &words),
        default: property["x-default"].as_str().map(String::from),
        about: text(&property["description"]),
        words,
    }
}

/// The schema behind a reference and behind the "or null" of an `Option`.
fn follow<'a>(mut schema: &'a Value, definitions: &'a Map<String, Value>) -> &'a Value {
    // Definitions nest two deep; the bound only keeps a cycle from hanging.
    for _ in 0..8 {
        let reference = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        let optional = || schema["anyOf"].as_array()?.iter().find(|choice| choice["type"] != "null");
        schema = match reference.and_then(|name| definitions.get(name)).or_else(optional) {
            Some(next) => next,
            None => return schema,
        };
    }
    schema
}

fn words(schema: &Value) -> Vec<(String, String)> {
    if let Some(choices) = schema["oneOf"].as_array() {
        return choices.iter().map(|choice| (text(&choice["const"]), text(&choice["description"]))).collect();
    }
    let plain = schema["enum"].as_array().into_iter().flatten().map(|word| (text(word), String::new()));
    plain.collect()
}

fn expected(property: &Value, schema: &Value, words: &[(String, String)]) -> String {
    if let Some(given) = property["x-expected"].as_str().or(schema["x-expected"].as_str()) {
        return given.into();
    }
    if let [(word, _)] = words {
        return format!("\"{word}\"");
    }
    if !words.is_empty() {
        let quoted: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        return format!("one of {}", quoted.join(", "));
    }
    let name = match &schema["type"] {
        Value::Array(names) => names.iter().find(|name| **name != "null").and_then(Value::as_str),
        name => name.as_str(),
    };
    match name {
        Some("boolean") => "true or false",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        _ => "a string",
    }
    .into()
}

/// A string of the schema as one line: schemars keeps the line breaks of doc comments.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}
