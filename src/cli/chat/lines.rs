//! The line editor of `taper chat`: editing, several lines, and a history in the user's state folder.

use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Editor, Helper};

use crate::error::{Error, Result};

/// Lines that the history keeps.
const KEPT: usize = 1000;

/// What came from the keyboard.
#[derive(Debug, PartialEq)]
pub(crate) enum Input {
    /// A text of one or more lines.
    Text(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D on an empty line.
    End,
}

/// A line that ends with a backslash is not finished.
struct Continued;

impl Completer for Continued {
    type Candidate = String;
}

impl Hinter for Continued {
    type Hint = String;
}

impl Highlighter for Continued {}

impl Helper for Continued {}

impl Validator for Continued {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if context.input().ends_with('\\') { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

/// The editor and its history file.
pub(crate) struct Lines {
    editor: Editor<Continued, FileHistory>,
    file: Option<PathBuf>,
}

impl Lines {
    /// An editor at the terminal; with `keep`, the history of earlier chats is there, and this one's is added to it.
    ///
    /// # Errors
    /// If there is no terminal to edit on.
    pub(crate) fn open(keep: bool) -> Result<Lines> {
        let config = Config::builder().max_history_size(KEPT).and_then(|config| config.history_ignore_dups(true));
        let config = config.map_err(failed)?.build();
        let history = FileHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history).map_err(failed)?;
        editor.set_helper(Some(Continued));
        let file = if keep { history_file(&|name| std::env::var(name).ok(), std::env::home_dir()) } else { None };
        if let Some(path) = &file
            && path.exists()
            && let Err(error) = editor.load_history(path)
        {
            eprintln!("note: the history {} cannot be read: {error}", path.display());
        }
        Ok(Lines { editor, file })
    }

    /// The next text, which may have several lines.
    ///
    /// # Errors
    /// If the terminal fails.
    pub(crate) fn read(&mut self) -> Result<Input> {
        match self.editor.readline("> ") {
            Ok(text) => {
                if !text.trim().is_empty() {
                    self.editor.add_history_entry(text.as_str()).map_err(failed)?;
                }
                Ok(Input::Text(text.replace("\\\n", "\n")))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Interrupted),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes the history.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn close(mut self) -> Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        self.editor.append_history(path).map_err(|error| Error::data(path, format!("cannot keep the history: {error}")))
    }
}

fn failed(error: ReadlineError) -> Error {
    Error::Device(format!("the terminal cannot be read: {error}"))
}

/// `taper/chat_history` in XDG_STATE_HOME, which is `~/.local/state` unless it says otherwise.
fn history_file(lookup: &dyn Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Option<PathBuf> {
    let state = lookup("XDG_STATE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let state = state.or_else(|| home.map(|home| home.join(".local").join("state")));
    state.map(|state| state.join("taper").join("chat_history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_in_the_state_folder() {
        let home = Some(PathBuf::from("h"));
        assert_eq!(history_file(&|_| None, home.clone()), Some(PathBuf::from("h/.local/state/taper/chat_history")));
        assert_eq!(history_file(&|_| Some("s".into()), home), Some(PathBuf::from("s/taper/chat_history")));
        assert_eq!(history_file(&|_| None, None), None);
    }
}
