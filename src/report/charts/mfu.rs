//! Model FLOPs utilisation: which share of the hardware's peak went into the model's own arithmetic (Chowdhery et al. 2022,
//! PaLM, appendix B). Drawn where the log knows the peak.

use super::{noisy, title};
use crate::report::Run;
use crate::report::axis::{Across, Scale};
use crate::report::figure::{Average, Figure};

pub(super) fn figure(runs: &[Run]) -> Figure {
    let mut series = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let known = |e: &crate::events::Step| Some((e.step as f64, 100.0 * e.mfu?));
        let points: Vec<(f64, f64)> = run.log.steps().filter_map(known).collect();
        if !points.is_empty() {
            series.extend(noisy("MFU", i, runs, Average::Median, points));
        }
    }
    Figure {
        title: title("model FLOPs utilisation", runs),
        y_label: "MFU (% of peak)".into(),
        scale: Scale::FromZero,
        across: Across::Steps,
        series,
        levels: Vec::new(),
        marks: Vec::new(),
    }
}
