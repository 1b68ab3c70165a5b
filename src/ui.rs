//! What the library says to a person while it works: messages with a level, and progress.
//!
//! Library code never prints. It is handed a [`Ui`], by the command line one that writes to the terminal, by tests and
//! other programs [`Silent`] or one of their own. What a developer wants to see of the inside (which checkpoint was
//! written, which collective was called) is not said here: those are events of the `tracing` crate, which cost nothing
//! where nobody listens.
//!
//! ```
//! use std::sync::Mutex;
//! use taper::ui::{Level, Ui};
//!
//! /// Keeps what it is told.
//! #[derive(Default)]
//! struct Kept(Mutex<Vec<String>>);
//!
//! impl Ui for Kept {
//!     fn message(&self, level: Level, text: &str) {
//!         self.0.lock().unwrap().push(format!("{}{text}", level.prefix()));
//!     }
//! }
//!
//! let kept = Kept::default();
//! kept.note("the context is full");
//! assert_eq!(kept.0.into_inner().unwrap(), ["note: the context is full"]);
//! ```

/// How much a message matters to the person who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What was asked for, and how it goes.
    Info,
    /// Something the user may want to know.
    Note,
    /// Something the user should know, because the result depends on it.
    Warning,
}

impl Level {
    /// What stands before a message of this level where it is written as a line.
    pub fn prefix(self) -> &'static str {
        match self {
            Level::Info => "",
            Level::Note => "note: ",
            Level::Warning => "NOTE: ",
        }
    }
}

/// Someone who is told what happens. Only [`Ui::message`] must be there; who shows no progress leaves the others out.
///
/// One transfer or one tokenization is under way at a time.
pub trait Ui: Sync {
    /// A message of one or more lines.
    fn message(&self, level: Level, text: &str);

    /// What was asked for, and how it goes.
    fn info(&self, text: &str) {
        self.message(Level::Info, text);
    }

    /// Something the user may want to know.
    fn note(&self, text: &str) {
        self.message(Level::Note, text);
    }

    /// Something the user should know, because the result depends on it.
    fn warn(&self, text: &str) {
        self.message(Level::Warning, text);
    }

    /// A line that another process has written for the person.
    fn relay(&self, line: &str) {
        self.message(Level::Info, line);
    }

    /// A transfer of `total` bytes begins at byte `done`; without a name, the one that is under way begins again there.
    fn begin(&self, what: &str, done: u64, total: Option<u64>) {
        let _ = (what, done, total);
    }

    /// So many more bytes of the transfer went by.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The transfer is over, well or not.
    fn end(&self) {}

    /// Of `total` bytes of text `done` are tokenized, and there are `tokens` tokens so far.
    fn tokenized(&self, done: u64, total: u64, tokens: u64) {
        let _ = (done, total, tokens);
    }
}

/// Nobody is told anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Ui for Silent {
    fn message(&self, _: Level, _: &str) {}
}
