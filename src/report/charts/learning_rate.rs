//! The learning rate of each step.

use super::{ink, label, title};
use crate::report::Run;
use crate::report::axis::Scale;
use crate::report::figure::{Figure, Kind, Series};

pub(super) fn figure(runs: &[Run]) -> Figure {
    let of = |(i, run): (usize, &Run)| Series {
        label: label("learning rate", run, runs),
        ink: ink(0, i, runs),
        kind: Kind::Dots,
        points: run.log.steps().map(|e| (e.step as f64, e.lr)).collect(),
    };
    Figure {
        title: title("learning rate", runs),
        y_label: "learning rate".into(),
        scale: Scale::FromZero,
        series: runs.iter().enumerate().map(of).collect(),
        levels: Vec::new(),
        marks: Vec::new(),
    }
}
