//! Training and validation loss, against steps, tokens, time or floating-point operations. Losses that are not finite are
//! marked at the top edge. One run has both on one chart; several have a chart each, where a colour is a run.

use super::{Unit, ink, label, noisy, steps, title};
use crate::events::number_to_string;
use crate::report::Run;
use crate::report::axis::{Across, Scale};
use crate::report::figure::{Average, Figure, Glyph, Kind, Marks, Series};

/// Both losses of one run; nothing for several.
pub(super) fn both(runs: &[Run], unit: Unit) -> Figure {
    let mut figure = empty("loss", runs);
    if runs.len() == 1 {
        add_training(&mut figure, runs, unit);
        // After the training line, so that no envelope hides a validation point.
        add_validation(&mut figure, runs, unit);
    }
    figure
}

/// The training losses of several runs.
pub(super) fn training(runs: &[Run], unit: Unit) -> Figure {
    let mut figure = empty("training loss", runs);
    if runs.len() > 1 {
        add_training(&mut figure, runs, unit);
    }
    figure
}

/// The validation losses of several runs.
pub(super) fn validation(runs: &[Run], unit: Unit) -> Figure {
    let mut figure = empty("validation loss", runs);
    if runs.len() > 1 {
        add_validation(&mut figure, runs, unit);
    }
    figure
}

fn empty(what: &str, runs: &[Run]) -> Figure {
    Figure {
        title: title(what, runs),
        y_label: format!("{what} (nats per token)"),
        scale: Scale::Auto,
        across: Across::Steps,
        series: Vec::new(),
        levels: Vec::new(),
        marks: Vec::new(),
    }
}

fn add_training(figure: &mut Figure, runs: &[Run], unit: Unit) {
    let (across, size) = unit.axis(runs);
    figure.across = across;
    for (i, run) in runs.iter().enumerate() {
        let place = |e: &crate::events::Step| Some((unit.of(run, e.step, e.tokens)? / size, e.loss));
        let points: Vec<(f64, f64)> = run.log.steps().filter_map(place).collect();
        let lost = points.iter().filter(|(_, loss)| !loss.is_finite());
        let at: Vec<(f64, String)> = lost.map(|&(x, loss)| (x, number_to_string(loss))).collect();
        if !at.is_empty() {
            let label = label(&format!("loss not finite ({})", steps(at.len())), run, runs);
            figure.marks.push(Marks { label, ink: ink(4, i, runs), glyph: Glyph::Cross, at });
        }
        if !points.is_empty() {
            figure.series.extend(noisy("training", i, runs, Average::Mean, points));
        }
    }
}

fn add_validation(figure: &mut Figure, runs: &[Run], unit: Unit) {
    let (across, size) = unit.axis(runs);
    figure.across = across;
    for (i, run) in runs.iter().enumerate() {
        for (k, split) in run.splits().into_iter().enumerate() {
            let evals = run.log.evals().filter(|e| e.split == split);
            let place = |e: &crate::events::Eval| Some((unit.of(run, e.step, e.tokens)? / size, e.loss));
            let points: Vec<(f64, f64)> = evals.filter_map(place).collect();
            if points.is_empty() {
                continue;
            }
            let label = match (runs.len(), &*split) {
                (1, "val") => "validation".into(),
                (1, _) => split,
                (_, "val") => run.name.clone(),
                (_, _) => format!("{}: {split}", run.name),
            };
            figure.series.push(Series { label, ink: ink(1 + k, i, runs), kind: Kind::Dots, points });
        }
    }
}
