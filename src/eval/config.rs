//! The `[eval]` section.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::setting::{Interval, Problem, count, one_or_many};

/// Validation during training. The validation loss is measured at step 0 and after the last step in any case, where there is
/// validation data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Steps between two measurements of the validation loss and of the benchmarks.
    pub every: Interval,
    /// How many tokens of the validation split are measured, at most; always the first ones.
    #[schemars(extend("x-default" = "the whole split"))]
    pub max_tokens: Option<u64>,
    /// Sequences that pass through the model at once.
    #[schemars(extend("x-default" = "`train.micro_batch`"))]
    pub batch: Option<usize>,
    /// Benchmarks to run with each measurement, each with its file of examples, one JSON object a line: `"hellaswag:FILE"`,
    /// `"lambada:FILE"` or `"multiple-choice:FILE"` (docs/eval.md). Their scores go to the event log and the model card.
    #[serde(deserialize_with = "task_specs")]
    #[schemars(schema_with = "task_specs_schema")]
    pub tasks: Vec<TaskSpec>,
    /// How many examples of each benchmark are scored, at most; always the first ones.
    #[schemars(extend("x-default" = "all of them"))]
    pub max_examples: Option<u64>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        EvalConfig { every: Interval::Steps(250), max_tokens: None, batch: None, tasks: Vec::new(), max_examples: None }
    }
}

impl EvalConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        if let Some(tokens) = self.max_tokens.filter(|tokens| !(2..=1 << 53).contains(tokens)) {
            let expected =
                "a whole number from 2 (one prediction) to 2^53; without the key the whole split is measured";
            return Err(Problem::expected("eval.max_tokens", tokens, expected));
        }
        if let Some(twice) = self.tasks.iter().enumerate().find(|(i, task)| self.tasks[..*i].contains(task)) {
            return Err(Problem::new("eval.tasks", format!("eval.tasks names {} twice; remove one", twice.1)));
        }
        self.max_examples.map_or(Ok(()), |examples| count("eval.max_examples", examples))?;
        self.batch.map_or(Ok(()), |batch| count("eval.batch", batch as u64))
    }
}

/// A benchmark by the form of its examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// HellaSwag: which of four endings continues a context (Zellers et al., 2019, arXiv:1905.07830).
    Hellaswag,
    /// LAMBADA: the last word of a passage (Paperno et al., 2016, arXiv:1606.06031).
    Lambada,
    /// Questions or contexts with choices, of any origin.
    MultipleChoice,
}

impl TaskKind {
    /// All of them.
    pub const ALL: [TaskKind; 3] = [TaskKind::Hellaswag, TaskKind::Lambada, TaskKind::MultipleChoice];

    /// The name in configs, on the command line and in the event log.
    pub fn name(self) -> &'static str {
        match self {
            TaskKind::Hellaswag => "hellaswag",
            TaskKind::Lambada => "lambada",
            TaskKind::MultipleChoice => "multiple-choice",
        }
    }

    /// The name for people.
    pub fn title(self) -> &'static str {
        match self {
            TaskKind::Hellaswag => "HellaSwag",
            TaskKind::Lambada => "LAMBADA",
            TaskKind::MultipleChoice => "multiple choice",
        }
    }
}

impl FromStr for TaskKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        TaskKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = TaskKind::ALL.map(TaskKind::name).join(", ");
            format!("there is no task named {name:?}; there are {names}")
        })
    }
}

/// A benchmark and the file of its examples, written `TASK:FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSpec {
    /// What the examples are.
    pub kind: TaskKind,
    /// The file, one JSON object a line.
    pub path: String,
}

impl fmt::Display for TaskSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.path)
    }
}

impl FromStr for TaskSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, path) = text
            .split_once(':')
            .filter(|(_, path)| !path.is_empty())
            .ok_or_else(|| format!("{text:?} names no file of examples; write TASK:FILE"))?;
        Ok(TaskSpec { kind: kind.parse()?, path: path.into() })
    }
}

impl Serialize for TaskSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn task_specs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TaskSpec>, D::Error> {
    let texts = one_or_many(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

fn task_specs_schema(_: &mut SchemaGenerator) -> Schema {
    let expected = "a list of TASK:FILE, or one, such as \"hellaswag:data/hellaswag.jsonl\"; the tasks are hellaswag, \
                    lambada and multiple-choice";
    json_schema!({ "type": ["array", "string"], "x-expected": expected })
}
