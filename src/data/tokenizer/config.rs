//! The `[tokenizer]` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::setting::Problem;

/// Where the tokenizer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// GPT-2's, built into the program: 50257 tokens.
    Gpt2,
    /// One token for each byte, and `<|endoftext|>`: 257 tokens.
    Bytes,
    /// One token for each character of the training text.
    Chars,
    /// A byte-level BPE trained on the training text, with `vocab_size` tokens.
    Train,
    /// From `path`: a `tokenizer.json`, or a folder that holds one.
    File,
}

/// How text becomes tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerConfig {
    /// Where the tokenizer comes from.
    #[schemars(extend("x-default" = "`\"file\"` where `path` or `model.init_from` is written, else `\"gpt2\"`"))]
    pub kind: Option<TokenizerKind>,
    /// For `kind = "file"`: the file or folder.
    #[schemars(extend("x-default" = "`model.init_from`"))]
    pub path: Option<String>,
    /// For `kind = "train"`: the number of tokens, which are 256 bytes, `<|endoftext|>` and the merges.
    #[schemars(extend("x-default" = "4096"))]
    pub vocab_size: Option<usize>,
}

impl TokenizerConfig {
    /// The vocabulary of a trained tokenizer where nothing is written.
    pub const VOCAB_SIZE: usize = 4096;

    /// Where the tokenizer comes from, once `Config` has been assembled.
    pub fn kind(&self) -> TokenizerKind {
        let default = if self.path.is_some() { TokenizerKind::File } else { TokenizerKind::Gpt2 };
        self.kind.unwrap_or(default)
    }

    /// The vocabulary of a trained tokenizer, its 257 base tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size.unwrap_or(Self::VOCAB_SIZE)
    }

    /// Checks the numbers, and that a file is named where one is needed.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), Problem> {
        if self.kind() == TokenizerKind::File && self.path.as_deref().unwrap_or_default().is_empty() {
            let message = "tokenizer.kind = \"file\" needs tokenizer.path, a tokenizer.json or a folder that holds one";
            return Err(Problem::new("tokenizer.kind", message));
        }
        if let Some(size) = self.vocab_size.filter(|size| !(257..=1 << 24).contains(size)) {
            let expected = "a whole number from 257 (256 bytes and <|endoftext|>) to 16777216";
            return Err(Problem::expected("tokenizer.vocab_size", size, expected));
        }
        Ok(())
    }
}
