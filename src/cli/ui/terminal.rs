//! The terminal: lines on standard error, and bars where that is one.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::ui::{Level, Ui};

/// The target of events that are messages for the person at the terminal.
pub(crate) const MESSAGES: &str = "taper::ui";

/// Whether this process leaves the talking to another.
static SILENT: AtomicBool = AtomicBool::new(false);

/// All bars of the process, so that lines can be written between them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    MultiProgress::with_draw_target(match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr_with_hz(5),
        false => ProgressDrawTarget::hidden(),
    })
});

/// For messages alone.
static SHARED: Terminal = Terminal::new();

/// From now on this process has no messages and no bars: of several processes that train together, one speaks.
pub(crate) fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Writes a line to standard error, with the bars out of its way.
pub(crate) fn write_line(line: &str) {
    BARS.suspend(|| eprintln!("{line}"));
}

/// Says something to the user, on standard error.
pub(crate) fn say(message: &str) {
    SHARED.info(message);
}

/// Says something that the user may want to know.
pub(crate) fn note(message: &str) {
    SHARED.note(message);
}

/// Says something that the user should know.
pub(crate) fn warn(message: &str) {
    SHARED.warn(message);
}

/// How a bar looks.
pub(crate) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A bar on a terminal, nothing elsewhere.
pub(crate) fn bar(total: u64, template: &str) -> ProgressBar {
    if SILENT.load(Ordering::Relaxed) {
        return ProgressBar::hidden();
    }
    BARS.add(ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()).with_style(style(template)))
}

/// The bar of a transfer.
const TRANSFER: &str = "{prefix} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
/// The bar of a tokenization.
const TOKENIZATION: &str = "tokenizing {wide_bar} {bytes}/{total_bytes} {msg} tokens";
/// The same where nothing else is done.
const LONG_TOKENIZATION: &str = "{wide_bar} {bytes}/{total_bytes} · {binary_bytes_per_sec} · {eta} · {msg} tokens";

/// What the library says goes to standard error, with a bar for what is under way.
pub(crate) struct Terminal {
    tokenization: &'static str,
    bar: Mutex<Option<ProgressBar>>,
}

impl Terminal {
    pub const fn new() -> Terminal {
        Terminal { tokenization: TOKENIZATION, bar: Mutex::new(None) }
    }

    /// With the rate and the rest of the time of a tokenization.
    pub fn with_rates() -> Terminal {
        Terminal { tokenization: LONG_TOKENIZATION, ..Terminal::new() }
    }

    fn with(&self, then: impl FnOnce(&mut Option<ProgressBar>)) {
        then(&mut self.bar.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Ui for Terminal {
    fn message(&self, level: Level, text: &str) {
        if SILENT.load(Ordering::Relaxed) {
            return;
        }
        let prefix = level.prefix();
        match level {
            Level::Warning => tracing::warn!(target: MESSAGES, "{prefix}{text}"),
            Level::Info | Level::Note => tracing::info!(target: MESSAGES, "{prefix}{text}"),
        }
    }

    /// Other processes have been told themselves how much to say.
    fn relay(&self, line: &str) {
        write_line(line);
    }

    fn begin(&self, what: &str, done: u64, total: Option<u64>) {
        self.with(|slot| {
            if !what.is_empty() && slot.as_ref().is_none_or(|bar| bar.prefix() != what) {
                *slot = Some(bar(total.unwrap_or(0), TRANSFER).with_prefix(what.to_string()));
            }
            slot.iter().for_each(|bar| bar.set_position(done));
        });
    }

    fn advance(&self, bytes: u64) {
        self.with(|slot| slot.iter().for_each(|bar| bar.inc(bytes)));
    }

    fn end(&self) {
        self.with(|slot| slot.take().iter().for_each(ProgressBar::finish_and_clear));
    }

    fn tokenized(&self, done: u64, total: u64, tokens: u64) {
        self.with(|slot| {
            let bar = slot.get_or_insert_with(|| bar(total, self.tokenization));
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(grouped(tokens));
            if done >= total {
                slot.take().iter().for_each(ProgressBar::finish_and_clear);
            }
        });
    }
}

/// A number with a comma between groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn digits_are_grouped() {
        let numbers = [0, 999, 1000, 1_234_567, 124_439_808];
        assert_eq!(numbers.map(super::grouped), ["0", "999", "1,000", "1,234,567", "124,439,808"]);
    }
}
