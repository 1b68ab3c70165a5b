//! Forms of a config value that TOML has no type for, and the checks that config sections share.
//!
//! A number that can also be switched off is a number or the word `"off"`, never -1 ([`Interval`], [`Limit`]); a list of
//! strings with one element may be written as that string ([`one_or_many`]). Sections check their own numbers and report
//! a [`Problem`], which names the key: whoever read the file knows on which line that key stands and says so.
//!
//! This stands below every room, because each section's struct lives next to what it configures.

use std::borrow::Cow;
use std::fmt::Display;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;

/// How often something happens, counted in optimizer steps: a whole number of at least 1, or `"off"` (0 is read as off).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// Never at an interval.
    Off,
    /// After every so many steps.
    Steps(u64),
}

impl Interval {
    /// Whether it is time after `steps` finished steps; never at 0.
    pub fn is_due(self, steps: u64) -> bool {
        matches!(self, Interval::Steps(every) if every > 0 && steps > 0 && steps.is_multiple_of(every))
    }
}

/// An upper bound: a number above 0, or `"off"` (0 is read as off).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// No bound.
    Off,
    /// At most this.
    At(f64),
}

impl Limit {
    /// The bound, where there is one.
    pub fn value(self) -> Option<f64> {
        match self {
            Limit::Off => None,
            Limit::At(value) => Some(value),
        }
    }

    /// Checks that the bound is a finite number above 0.
    ///
    /// # Errors
    /// A problem with `key`.
    pub fn validate(self, key: &str) -> Result<(), Problem> {
        match self {
            Limit::Off => Ok(()),
            Limit::At(value) => above_zero(key, value),
        }
    }
}

/// The one word that both forms know.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Off,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrWord<N> {
    Number(N),
    Word(Word),
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match NumberOrWord::<u64>::deserialize(deserializer)? {
            NumberOrWord::Number(0) | NumberOrWord::Word(Word::Off) => Interval::Off,
            NumberOrWord::Number(steps) => Interval::Steps(steps),
        })
    }
}

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Interval::Off => Word::Off.serialize(serializer),
            Interval::Steps(steps) => steps.serialize(serializer),
        }
    }
}

impl JsonSchema for Interval {
    fn schema_name() -> Cow<'static, str> {
        "Interval".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "x-expected": "a whole number of at least 1, or \"off\"" })
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match NumberOrWord::<f64>::deserialize(deserializer)? {
            NumberOrWord::Number(value) if value != 0.0 => Limit::At(value),
            _ => Limit::Off,
        })
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Limit::Off => Word::Off.serialize(serializer),
            Limit::At(value) => value.serialize(serializer),
        }
    }
}

impl JsonSchema for Limit {
    fn schema_name() -> Cow<'static, str> {
        "Limit".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["number", "string"], "x-expected": "a number above 0, or \"off\"" })
    }
}

/// Reads a list of strings, or one string as a list of one; for `#[serde(deserialize_with)]`.
///
/// # Errors
/// The deserializer's, for anything else.
pub fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// The schema of what [`one_or_many`] reads; for `#[schemars(schema_with)]`.
pub fn one_or_many_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["array", "string"], "x-expected": "a list of strings, or one string" })
}

/// A config value that cannot stand, under the name of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key as `section.key`.
    pub key: String,
    /// One sentence that names the key, its value, and what is expected.
    pub message: String,
}

impl Problem {
    /// A problem told in a sentence of its own.
    pub fn new(key: &str, message: impl Into<String>) -> Self {
        Problem { key: key.into(), message: message.into() }
    }

    /// A value outside its range: `optimizer.lr = -1: expected a number above 0`.
    pub fn expected(key: &str, value: impl Display, expected: &str) -> Self {
        Problem::new(key, format!("{key} = {value}: expected {expected}"))
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Error::Usage(problem.message)
    }
}

/// Checks that a number is finite and above 0.
///
/// # Errors
/// A problem with `key`.
pub fn above_zero(key: &str, value: f64) -> Result<(), Problem> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Problem::expected(key, value, "a finite number above 0"))
}

/// Checks that a number is finite and at least 0.
///
/// # Errors
/// A problem with `key`.
pub fn not_negative(key: &str, value: f64) -> Result<(), Problem> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Problem::expected(key, value, "a finite number of at least 0"))
}

/// Checks that a number is at least 0 and below 1.
///
/// # Errors
/// A problem with `key`.
pub fn below_one(key: &str, value: f64) -> Result<(), Problem> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Problem::expected(key, value, "a number of at least 0 and below 1"))
}

/// The greatest count that a config may ask for: far beyond any use, and small enough that products of two fit in 64 bits.
pub const MAX: u64 = 1 << 31;

/// Checks that a count is at least 1 and not absurd.
///
/// # Errors
/// A problem with `key`.
pub fn count(key: &str, value: u64) -> Result<(), Problem> {
    if (1..=MAX).contains(&value) {
        return Ok(());
    }
    Err(Problem::expected(key, value, &format!("a whole number from 1 to {MAX}")))
}
