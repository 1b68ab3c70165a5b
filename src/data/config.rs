//! The `[data]` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::setting::{Problem, below_one, one_or_many, one_or_many_schema};

/// What a line or row of the data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DataFormat {
    /// Running text.
    Text,
    /// Conversations: JSON lines of messages. Only what the assistant says is learned.
    Chat,
}

/// What the model is trained on: text, tokenized at the start of the run, or token shards prepared beforehand. Exactly
/// one of `text` and `shards` is written. Paths are relative to the folder in which the command is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Files, folders and glob patterns of text: .txt, .md, .jsonl (also .gz and .zst) and .parquet; other files are read as
    /// UTF-8. `"cargo-sources"` stands for the Rust sources that cargo fetched to build this program, `"OWNER/NAME"` for the
    /// training split of a data set on the Hugging Face Hub.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(schema_with = "one_or_many_schema", extend("x-default" = "not set"))]
    pub text: Vec<String>,
    /// A folder of token shards, a glob pattern of them, or `"OWNER/NAME"`, all `.bin` files of a data set on the Hub;
    /// shards with `val` in their name are for validation.
    #[schemars(extend("x-default" = "not set"))]
    pub shards: Option<String>,
    /// Text or shards for validation, in place of a part held out; `"OWNER/NAME"` is the validation split of a data set
    /// on the Hub.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(schema_with = "one_or_many_schema", extend("x-default" = "not set"))]
    pub val: Vec<String>,
    /// The part held out for validation: the last one of the text. 0 means that there is no validation.
    #[schemars(extend("x-default" = "0.1 with `text` and no `val`; with `shards` only what is marked `val`"))]
    pub val_fraction: Option<f64>,
    /// Whether sequences come in an order drawn from `run.seed_data` and the epoch. `false` reads consecutive windows of
    /// `model.context_length` tokens in order.
    pub shuffle: bool,
    /// Whether special tokens spelled out in the text (`<|endoftext|>`) become those tokens. Otherwise they are ordinary
    /// text; in conversations they are refused.
    pub parse_special: bool,
    /// The column of .parquet and the field of .jsonl that holds the text.
    pub text_column: String,
    /// What the data is. `"chat"` reads .jsonl files, on each line `{"messages": [{"role": .., "content": ..}, ..]}` or
    /// `{"prompt": .., "completion": ..}`; only what the assistant says is learned, and attention does not reach from one
    /// conversation to another.
    pub format: DataFormat,
    /// With `format = "chat"`: a file with the Jinja template that makes text of a conversation.
    #[schemars(extend("x-default" = "that of `model.init_from`, else ChatML"))]
    pub chat_template: Option<String>,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            text: Vec::new(),
            shards: None,
            val: Vec::new(),
            val_fraction: None,
            shuffle: true,
            parse_special: false,
            text_column: "text".into(),
            format: DataFormat::Text,
            chat_template: None,
        }
    }
}

impl DataConfig {
    /// The part of the data held out for validation where nothing is written.
    pub const VAL_FRACTION: f64 = 0.1;

    /// The part of the data to hold out: as written, else the default of what the data comes from.
    pub fn val_fraction(&self) -> f64 {
        let default = if self.val.is_empty() && self.shards.is_none() { Self::VAL_FRACTION } else { 0.0 };
        self.val_fraction.unwrap_or(default)
    }

    /// Checks that the data comes from one place and the validation data from one place.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        match (self.text.is_empty(), &self.shards) {
            (true, None) => {
                let message =
                    "nothing says what to train on; write data.text = [\"my.txt\"] or data.shards = \"FOLDER\"";
                return Err(Problem::new("data.text", message));
            }
            (false, Some(_)) => {
                let message = "data.text and data.shards both say what to train on; keep one of them";
                return Err(Problem::new("data.shards", message));
            }
            _ => {}
        }
        let paths =
            [("data.text", &self.text[..]), ("data.shards", self.shards.as_slice()), ("data.val", &self.val[..])];
        for (key, paths) in paths {
            if paths.iter().any(String::is_empty) {
                return Err(Problem::new(
                    key,
                    format!("{key} holds an empty path; name a file, a folder or a pattern"),
                ));
            }
        }
        if self.format == DataFormat::Chat && self.shards.is_some() {
            let message = "data.shards hold running text; with data.format = \"chat\" write data.text = [\"my.jsonl\"]";
            return Err(Problem::new("data.shards", message));
        }
        if let Some(fraction) = self.val_fraction {
            below_one("data.val_fraction", fraction)?;
            if fraction > 0.0 && !self.val.is_empty() {
                let message = format!(
                    "data.val and data.val_fraction = {fraction} both say what to validate on; keep one of them"
                );
                return Err(Problem::new("data.val_fraction", message));
            }
        }
        if self.text_column.is_empty() {
            return Err(Problem::expected("data.text_column", "\"\"", "the name of a column"));
        }
        Ok(())
    }
}
