//! The error type of the library and its `Result`.
//!
//! Variants are grouped by *cause*, because the cause decides the exit code and the remedy: a user's mistake in the
//! command or the config (`Usage`), a file that cannot be read or written (`Io`), a file whose content is wrong
//! (`Data`), a device that is not there or refuses (`Device`), training that cannot continue (`Training`), the Hub
//! (`Hub`), a clean stop by a signal (`Stopped`). Every message is one sentence for a person: what was wrong, where,
//! and what to do about it.

use std::path::{Path, PathBuf};

/// The result of everything that can fail in this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in words for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mistake in the command line or in a config file (exit code 2).
    #[error("{0}")]
    Usage(String),
    /// The operating system refused to read or write a path.
    #[error("cannot {action} {}: {}", path.display(), explain_io(source))]
    Io {
        /// What was attempted, as a verb: "read", "create", "write".
        action: &'static str,
        /// The file or folder concerned.
        path: PathBuf,
        /// The operating system's own error.
        source: std::io::Error,
    },
    /// A file was read, but what it holds is wrong: corrupt, foreign, truncated, or of another format.
    #[error("{}: {message}", path.display())]
    Data {
        /// The file concerned.
        path: PathBuf,
        /// What is wrong with it, where (line or offset), and what to do.
        message: String,
    },
    /// A device is missing, unsuitable, or failed.
    #[error("{0}")]
    Device(String),
    /// Training or another computation cannot continue (non-finite values, shapes that do not fit).
    #[error("{0}")]
    Training(String),
    /// The Hub cannot be reached, refuses, or answers what it should not.
    #[error("{0}")]
    Hub(String),
    /// A signal asked the run to stop, and its state was saved first (exit code 3).
    #[error("stopped by a signal after step {step}; the state is saved, continue with --resume")]
    Stopped {
        /// The last finished optimizer step.
        step: u64,
    },
    /// A signal asked several runs to stop, and what was at hand saved its state first (exit code 3).
    #[error("{0}")]
    Interrupted(String),
    /// An error with the circumstance in which it happened.
    #[error("{context}: {source}")]
    Context {
        /// What was being done.
        context: String,
        /// The underlying error.
        source: Box<Error>,
    },
}

/// The system's message, or a plainer one where the system's is obscure.
fn explain_io(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::StorageFull => "the disk is full; free some space and continue with --resume".into(),
        std::io::ErrorKind::NotFound => "there is no such file or folder".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        std::io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".into(),
        _ => error.to_string(),
    }
}

impl Error {
    /// A `Usage` error: the command line or config is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Error::Usage(message.into())
    }

    /// A `Data` error: the content of `path` is wrong.
    pub fn data(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::Data { path: path.as_ref().to_path_buf(), message: message.into() }
    }

    /// An `Io` error; for `map_err`: `.map_err(Error::io("read", path))`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// The exit code of the binary for this error: 2 for bad usage or config, 3 for a clean stop, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Stopped { .. } | Error::Interrupted(_) => 3,
            Error::Context { source, .. } => source.exit_code(),
            _ => 1,
        }
    }
}

/// Adds the circumstance to an error, as `anyhow` does, but keeping the type (and so the exit code).
pub trait ResultExt<T> {
    /// Wraps the error with `context`, evaluated only on failure.
    fn context(self, context: impl FnOnce() -> String) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Context { context: context(), source: Box::new(source) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_survive_context() {
        let wrapped = Err::<(), _>(Error::usage("no such key")).context(|| "reading run.toml".into());
        assert_eq!(wrapped.unwrap_err().exit_code(), 2);
        let stopped = Err::<(), _>(Error::Stopped { step: 7 }).context(|| "training".into());
        assert_eq!(stopped.unwrap_err().exit_code(), 3);
        assert_eq!(Error::data("x.bin", "is torn").exit_code(), 1);
    }

    #[test]
    fn a_full_disk_is_explained() {
        let error =
            Error::io("write", "runs/a/model.safetensors")(std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert!(error.to_string().contains("the disk is full"), "{error}");
    }
}
