//! Tokens per second of each step, with the median of the run and, where the hardware's peak is known, its utilisation.

use super::{ink, label, noisy, short, title};
use crate::report::Run;
use crate::report::axis::{Across, Scale};
use crate::report::figure::{Average, Figure, median};

pub(super) fn figure(runs: &[Run]) -> Figure {
    let (mut series, mut levels) = (Vec::new(), Vec::new());
    for (i, run) in runs.iter().enumerate() {
        let rates = run.log.steps().filter(|e| e.tokens_per_s.is_finite());
        let points: Vec<(f64, f64)> = rates.map(|e| (e.step as f64, e.tokens_per_s)).collect();
        let Some(typical) = median(points.iter().map(|p| p.1)) else { continue };
        let mfu = median(run.log.steps().filter_map(|e| e.mfu));
        let mfu = mfu.map_or(String::new(), |mfu| format!(", MFU {:.1}%", 100.0 * mfu));
        series.extend(noisy("throughput", i, runs, Average::Median, points));
        levels.push((typical, label(&format!("median {}{mfu}", short(typical)), run, runs), ink(1, i, runs)));
    }
    Figure {
        title: title("throughput", runs),
        y_label: "tokens per second".into(),
        scale: Scale::FromZero,
        across: Across::Steps,
        series,
        levels,
        marks: Vec::new(),
    }
}
