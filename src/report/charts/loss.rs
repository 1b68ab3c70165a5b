//! Training and validation loss against steps. Losses that are not finite are marked at the top edge.

use super::{ink, label, steps, title};
use crate::events::number_to_string;
use crate::report::Run;
use crate::report::axis::Scale;
use crate::report::figure::{Average, Figure, Glyph, Kind, Marks, Series, raw_and_smoothed};

pub(super) fn figure(runs: &[Run]) -> Figure {
    let (mut series, mut marks) = (Vec::new(), Vec::new());
    for (i, run) in runs.iter().enumerate() {
        let points: Vec<(f64, f64)> = run.log.steps().map(|e| (e.step as f64, e.loss)).collect();
        let lost = points.iter().filter(|(_, loss)| !loss.is_finite());
        let at: Vec<(f64, String)> = lost.map(|&(step, loss)| (step, number_to_string(loss))).collect();
        if !at.is_empty() {
            let label = label(&format!("loss not finite ({})", steps(at.len())), run, runs);
            marks.push(Marks { label, ink: ink(4, i, runs), glyph: Glyph::Cross, at });
        }
        if !points.is_empty() {
            let label = label("training", run, runs);
            series.extend(raw_and_smoothed(&label, ink(0, i, runs), Average::Mean, points));
        }
    }
    // After all training lines, so that no envelope hides a validation point.
    for (i, run) in runs.iter().enumerate() {
        for (k, split) in run.splits().into_iter().enumerate() {
            let evals = run.log.evals().filter(|e| e.split == split);
            let points = evals.map(|e| (e.step as f64, e.loss)).collect();
            let name = if split == "val" { "validation" } else { &split };
            series.push(Series { label: label(name, run, runs), ink: ink(1 + k, i, runs), kind: Kind::Dots, points });
        }
    }
    Figure {
        title: title("loss", runs),
        y_label: "loss (nats per token)".into(),
        scale: Scale::Auto,
        series,
        levels: Vec::new(),
        marks,
    }
}
