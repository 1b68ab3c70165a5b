//! One way to standard error: messages for the person, and events for whoever looks inside.
//!
//! Both are events of `tracing`, and one layer writes them as lines, with progress bars out of the way. Messages have a
//! target of their own and are written as they are; all others stand behind their level and the module that they are
//! from, and are off unless `-v`, `-vv` or `TAPER_LOG` asks for them.

use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::cli::ui::terminal::{MESSAGES, write_line};
use crate::error::{Error, Result};

/// What names the events that are wanted, as `taper::collective=trace` or `debug`.
pub(crate) const VARIABLE: &str = "TAPER_LOG";

/// How much is written.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Verbosity {
    /// Tell more of what happens inside; twice tells all. TAPER_LOG=taper::collective=trace asks for a single module.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Tell only what goes wrong and what the result depends on.
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

impl Verbosity {
    /// The options that ask for the same.
    pub fn options(self) -> Vec<&'static str> {
        let quiet = self.quiet.then_some("--quiet");
        quiet.into_iter().chain((0..self.verbose).map(|_| "--verbose")).collect()
    }

    /// The events that are wanted; `given` is the content of [`VARIABLE`].
    fn targets(self, given: Option<&str>) -> Result<Targets> {
        let asked = match given {
            Some(given) if !given.trim().is_empty() => given.parse::<Targets>().map_err(|error| {
                Error::usage(format!("{VARIABLE}={given:?}: {error}; write debug, or MODULE=trace"))
            })?,
            _ => Targets::new(),
        };
        let inside = match self.verbose {
            0 => None,
            1 => Some(LevelFilter::DEBUG),
            _ => Some(LevelFilter::TRACE),
        };
        let asked = match inside {
            Some(level) => asked.with_target("taper", level),
            // Errors of the library are written in any case.
            None if given.is_none() => asked.with_target("taper", LevelFilter::ERROR),
            None => asked,
        };
        Ok(asked.with_target(MESSAGES, if self.quiet { LevelFilter::WARN } else { LevelFilter::INFO }))
    }

    /// From now on messages and events are written. Only the first call of a process counts.
    ///
    /// # Errors
    /// `Usage` if `TAPER_LOG` cannot be read.
    pub fn start(self) -> Result<()> {
        let targets = self.targets(std::env::var(VARIABLE).ok().as_deref())?;
        let lines = tracing_subscriber::registry().with(Lines.with_filter(targets));
        // A process that runs several command lines (a test) keeps what it has.
        let _ = tracing::subscriber::set_global_default(lines);
        Ok(())
    }
}

/// Writes events to standard error, one line each.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut found = Fields::default();
        event.record(&mut found);
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let Fields { message, others } = found;
        write_line(&match target {
            MESSAGES => message,
            _ if level == Level::ERROR && target.starts_with("taper") => format!("error: {message}{others}"),
            _ => format!("{level:<5} {target}: {message}{others}"),
        });
    }
}

/// An event's message, and its other fields as ` name=value`.
#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_that_are_asked_for_are_wanted() {
        let wants = |verbose, quiet, given, target: &str, level| {
            Verbosity { verbose, quiet }.targets(given).unwrap().would_enable(target, &level)
        };
        assert!(wants(0, false, None, MESSAGES, Level::INFO));
        assert!(!wants(0, true, None, MESSAGES, Level::INFO));
        assert!(wants(0, true, None, MESSAGES, Level::WARN));
        assert!(wants(0, false, None, "taper::collective", Level::ERROR));
        assert!(!wants(0, false, None, "taper::collective", Level::WARN));
        assert!(wants(1, false, None, "taper::collective", Level::DEBUG));
        assert!(!wants(1, false, None, "taper::collective", Level::TRACE));
        assert!(wants(2, false, None, "taper::collective", Level::TRACE));
        assert!(wants(0, false, Some("taper::collective=trace"), "taper::collective::tcp", Level::TRACE));
        assert!(!wants(0, false, Some("taper::collective=trace"), "taper::checkpoint", Level::DEBUG));
        assert!(wants(0, false, Some("debug"), MESSAGES, Level::INFO));
        assert!(Verbosity { verbose: 0, quiet: false }.targets(Some("taper=loud")).unwrap_err().exit_code() == 2);
    }
}
