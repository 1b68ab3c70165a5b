//! The `[run]` section, and how a device is asked for.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::setting::Problem;

/// Where the run is kept, what it runs on, and its seeds. Seeds are whole numbers from 0 to 2^63 - 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// The run's name.
    #[schemars(extend("x-default" = "the config file's name without `.toml`"))]
    pub name: Option<String>,
    /// The run folder itself.
    #[schemars(extend("x-default" = "`runs/NAME`"))]
    pub dir: Option<String>,
    /// The seed of everything that has no seed of its own, samples among them.
    pub seed: u64,
    /// The seed of the initial weights.
    #[schemars(extend("x-default" = "`seed`"))]
    pub seed_init: Option<u64>,
    /// The seed of the order of the data.
    #[schemars(extend("x-default" = "`seed`"))]
    pub seed_data: Option<u64>,
    /// The seed of dropout.
    #[schemars(extend("x-default" = "`seed`"))]
    pub seed_dropout: Option<u64>,
    /// The device to train on; `"auto"` takes the first GPU that works, else the CPU.
    pub device: DeviceChoice,
}

impl Default for RunConfig {
    fn default() -> Self {
        RunConfig {
            name: None,
            dir: None,
            seed: 1337,
            seed_init: None,
            seed_data: None,
            seed_dropout: None,
            device: DeviceChoice::Auto,
        }
    }
}

impl RunConfig {
    /// The seed of the initial weights.
    pub fn seed_init(&self) -> u64 {
        self.seed_init.unwrap_or(self.seed)
    }

    /// The seed of the order of the data.
    pub fn seed_data(&self) -> u64 {
        self.seed_data.unwrap_or(self.seed)
    }

    /// The seed of dropout.
    pub fn seed_dropout(&self) -> u64 {
        self.seed_dropout.unwrap_or(self.seed)
    }

    /// Checks the names and the seeds.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        if let Some(name) = &self.name
            && (name.is_empty()
                || name.starts_with('.')
                || name.contains(['/', '\\'])
                || name.chars().any(char::is_control))
        {
            return Err(Problem::expected(
                "run.name",
                format!("{name:?}"),
                "a folder's name, without slashes and not starting with a dot; a place elsewhere goes in run.dir",
            ));
        }
        if self.dir.as_deref() == Some("") {
            return Err(Problem::expected("run.dir", "\"\"", "the path of a folder"));
        }
        let seeds = [
            ("run.seed", Some(self.seed)),
            ("run.seed_init", self.seed_init),
            ("run.seed_data", self.seed_data),
            ("run.seed_dropout", self.seed_dropout),
        ];
        for (key, seed) in seeds {
            // TOML has no larger integers, and the run folder's config.toml must hold the seed.
            if let Some(seed) = seed.filter(|&seed| seed > i64::MAX as u64) {
                return Err(Problem::expected(key, seed, "a whole number from 0 to 2^63 - 1"));
            }
        }
        Ok(())
    }
}

/// Which device to use, as `run.device` and `--device` write it: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that works, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this number.
    Cuda(usize),
}

const DEVICE_FORMS: &str = "\"auto\", \"cpu\", \"cuda\" or \"cuda:N\"";

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::usage(format!("there is no device {text:?}; expected {DEVICE_FORMS}"));
        Ok(match text {
            "auto" => DeviceChoice::Auto,
            "cpu" => DeviceChoice::Cpu,
            "cuda" => DeviceChoice::Cuda(0),
            _ => DeviceChoice::Cuda(text.strip_prefix("cuda:").and_then(|n| n.parse().ok()).ok_or_else(wrong)?),
        })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for DeviceChoice {
    fn schema_name() -> Cow<'static, str> {
        "DeviceChoice".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "x-expected": DEVICE_FORMS })
    }
}
