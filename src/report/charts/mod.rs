//! The charts of a report. To add one: a file here with a function from runs to a figure, and one line in [`CHARTS`].

mod grad_norm;
mod learning_rate;
mod loss;
mod throughput;

use super::Run;
use super::figure::{Figure, Ink};

/// A chart: the stem of its files, and the function that makes it from one run or several overlaid.
#[derive(Clone, Copy, Debug)]
pub struct Chart {
    /// `loss` gives `loss.png` and `loss.svg`.
    pub stem: &'static str,
    /// Makes the figure; an empty one is not drawn.
    pub figure: fn(&[Run]) -> Figure,
}

/// All charts, in the order of the page.
pub const CHARTS: &[Chart] = &[
    Chart { stem: "loss", figure: loss::figure },
    Chart { stem: "grad_norm", figure: grad_norm::figure },
    Chart { stem: "learning_rate", figure: learning_rate::figure },
    Chart { stem: "throughput", figure: throughput::figure },
];

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
