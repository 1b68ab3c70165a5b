//! The charts of a report. To add one: a file here with a function from runs to a figure, and one line in [`CHARTS`].

mod grad_norm;
mod learning_rate;
mod loss;
mod mfu;
mod throughput;

use super::Run;
use super::axis::Across;
use super::figure::{Average, Figure, Ink, Series, glass_and_smoothed, raw_and_smoothed, smoothed, smoothing_window};

/// A chart: the stem of its files, and the function that makes it from one run or several overlaid.
#[derive(Clone, Copy, Debug)]
pub struct Chart {
    /// `loss` gives `loss.png` and `loss.svg`.
    pub stem: &'static str,
    /// On the page, neighbours with the same name here share one place, where the reader chooses among them.
    pub group: &'static str,
    /// The name of that choice.
    pub choice: &'static str,
    /// Makes the figure; an empty one is not drawn.
    pub figure: fn(&[Run]) -> Figure,
}

const fn alone(stem: &'static str, figure: fn(&[Run]) -> Figure) -> Chart {
    Chart { stem, group: stem, choice: "steps", figure }
}

/// All charts, in the order of the page.
pub const CHARTS: &[Chart] = &[
    alone("loss", |runs| loss::both(runs, Unit::Steps)),
    Chart { group: "loss", choice: "tokens", ..alone("loss_tokens", |runs| loss::both(runs, Unit::Tokens)) },
    Chart { group: "loss", choice: "time", ..alone("loss_time", |runs| loss::both(runs, Unit::Time)) },
    Chart { group: "loss", choice: "FLOPs", ..alone("loss_flops", |runs| loss::both(runs, Unit::Flops)) },
    alone("val_loss", |runs| loss::validation(runs, Unit::Steps)),
    Chart { group: "val_loss", choice: "tokens", ..alone("val_loss_tokens", |r| loss::validation(r, Unit::Tokens)) },
    Chart { group: "val_loss", choice: "time", ..alone("val_loss_time", |r| loss::validation(r, Unit::Time)) },
    Chart { group: "val_loss", choice: "FLOPs", ..alone("val_loss_flops", |r| loss::validation(r, Unit::Flops)) },
    alone("train_loss", |runs| loss::training(runs, Unit::Steps)),
    Chart { group: "train_loss", choice: "tokens", ..alone("train_loss_tokens", |r| loss::training(r, Unit::Tokens)) },
    Chart { group: "train_loss", choice: "time", ..alone("train_loss_time", |r| loss::training(r, Unit::Time)) },
    Chart { group: "train_loss", choice: "FLOPs", ..alone("train_loss_flops", |r| loss::training(r, Unit::Flops)) },
    alone("grad_norm", grad_norm::figure),
    alone("learning_rate", learning_rate::figure),
    alone("throughput", throughput::figure),
    alone("mfu", mfu::figure),
];

/// What losses are drawn against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Steps,
    Tokens,
    Time,
    Flops,
}

impl Unit {
    /// The axis, and how many of its units make up one of the readings of [`Unit::of`].
    fn axis(self, runs: &[Run]) -> (Across, f64) {
        match self {
            Unit::Steps => (Across::Steps, 1.0),
            Unit::Tokens => (Across::Amount("training tokens".into()), 1.0),
            Unit::Flops => (Across::Amount("training FLOPs".into()), 1.0),
            Unit::Time => {
                let longest = runs.iter().map(Run::seconds).fold(0.0, f64::max);
                let (seconds, name) = match longest {
                    s if s < 180.0 => (1.0, "seconds"),
                    s if s < 3.0 * 3600.0 => (60.0, "minutes"),
                    s if s < 72.0 * 3600.0 => (3600.0, "hours"),
                    _ => (86400.0, "days"),
                };
                (Across::Amount(format!("time in optimizer steps ({name})")), seconds)
            }
        }
    }

    /// The place of a step of a run; `None` where the log does not tell.
    fn of(self, run: &Run, step: u64, tokens: u64) -> Option<f64> {
        match self {
            Unit::Steps => Some(step as f64),
            Unit::Tokens => Some(tokens as f64),
            Unit::Time => run.seconds_at(step),
            Unit::Flops => run.flops_at(tokens),
        }
    }
}

/// How a noisy quantity is shown: of one run with all its values, of several as one line each, the values behind it as
/// long as one can still tell them apart.
fn noisy(what: &str, i: usize, runs: &[Run], average: Average, points: Vec<(f64, f64)>) -> Vec<Series> {
    match runs {
        [_] => raw_and_smoothed(what, i, average, points),
        several if several.len() <= 4 => glass_and_smoothed(&runs[i].name, i, average, points),
        _ => match smoothing_window(points.len()) {
            None => glass_and_smoothed(&runs[i].name, i, average, points),
            Some(window) => vec![smoothed(&runs[i].name, i, average, window, &points)],
        },
    }
}

/// The headline: what is shown, and of which runs.
fn title(what: &str, runs: &[Run]) -> String {
    match runs {
        [one] => format!("{} · {what}", one.name),
        several => format!("{} runs · {what}", several.len()),
    }
}

/// The name of a quantity in the legend: with the run's name only where there are several.
fn label(what: &str, run: &Run, runs: &[Run]) -> String {
    if runs.len() == 1 { what.to_owned() } else { format!("{}: {what}", run.name) }
}

/// The ink of a quantity: told apart by role within one run, by run where several are overlaid.
fn ink(role: usize, run: usize, runs: &[Run]) -> Ink {
    if runs.len() == 1 { role } else { run }
}

/// `1 step`, `12 steps`.
fn steps(count: usize) -> String {
    if count == 1 { "1 step".into() } else { format!("{count} steps") }
}

/// A quantity for people: `9.53`, `12.3k`, `1.25M`.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e9 => format!("{:.2}B", value / 1e9),
        v if v >= 1e6 => format!("{:.2}M", value / 1e6),
        v if v >= 1e4 => format!("{:.1}k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}
