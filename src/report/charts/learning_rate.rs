//! The learning rate of each step.

use super::{ink, title};
use crate::report::Run;
use crate::report::axis::{Across, Scale};
use crate::report::figure::{Figure, Kind, Series};

pub(super) fn figure(runs: &[Run]) -> Figure {
    let of = |(i, run): (usize, &Run)| Series {
        label: if runs.len() == 1 { "learning rate".into() } else { run.name.clone() },
        ink: ink(0, i, runs),
        kind: Kind::Dots,
        points: run.log.steps().map(|e| (e.step as f64, e.lr)).collect(),
    };
    Figure {
        title: title("learning rate", runs),
        y_label: "learning rate".into(),
        scale: Scale::FromZero,
        across: Across::Steps,
        series: runs.iter().enumerate().map(of).collect(),
        levels: Vec::new(),
        marks: Vec::new(),
    }
}
