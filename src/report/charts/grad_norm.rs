//! The gradient norm before clipping, its mean and maximum over an interval, with the clip line, and every step that
//! was clipped, overflowed or not finite. An infinite norm has no place on the axis: it is drawn at the top edge and
//! labelled, rather than lost.

use super::{ink, label, noisy, steps, title};
use crate::events::{Class, Step, number_to_string};
use crate::report::Run;
use crate::report::axis::{Across, Scale};
use crate::report::figure::{Average, Figure, Glyph, Marks, smoothed, smoothing_window};

/// What is marked, how, and in which ink.
const MARKED: [(Class, &str, Glyph, usize); 5] = [
    (Class::Clipped, "clipped", Glyph::Tick, 1),
    (Class::Overflow, "norm overflowed", Glyph::Triangle, 3),
    (Class::Nonfinite, "gradient not finite", Glyph::Cross, 4),
    (Class::LossNonfinite, "loss not finite", Glyph::Diamond, 6),
    (Class::Backoff, "loss scale halved", Glyph::Tick, 5),
];

pub(super) fn figure(runs: &[Run]) -> Figure {
    let (mut series, mut levels, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    for (i, run) in runs.iter().enumerate() {
        let points: Vec<(f64, f64)> = run.log.steps().map(|e| (e.step as f64, e.grad_norm)).collect();
        let count = points.len();
        if !points.is_empty() {
            let most = smoothing_window(points.len())
                .filter(|_| runs.len() == 1)
                .map(|window| smoothed("largest", 7, Average::Max, window, &points));
            series.extend(noisy("gradient norm", i, runs, Average::Mean, points));
            series.extend(most);
        }
        if let Some(clip) = clip_norm(run) {
            levels.push((clip, label(&format!("clip norm {clip}"), run, runs), ink(2, i, runs)));
        }
        for (class, name, glyph, role) in MARKED {
            let at: Vec<(f64, String)> =
                run.log.steps().filter(|e| e.class == class).map(|e| (e.step as f64, mark_text(e))).collect();
            if !at.is_empty() {
                let label = label(&format!("{name} ({} of {})", at.len(), steps(count)), run, runs);
                marks.push(Marks { label, ink: ink(role, i, runs), glyph, at });
            }
        }
    }
    // Runs with the same clip norm share one line.
    for at in (0..levels.len()).rev() {
        if let Some(first) = levels[..at].iter().position(|level| level.0 == levels[at].0) {
            levels[first].1 = format!("clip norm {}", levels[first].0);
            levels[first].2 = 2;
            levels.remove(at);
        }
    }
    Figure {
        title: title("gradient norm", runs),
        y_label: "gradient norm (L2)".into(),
        scale: Scale::Auto,
        across: Across::Steps,
        series,
        levels,
        marks,
    }
}

fn mark_text(step: &Step) -> String {
    if step.grad_norm.is_finite() { String::new() } else { number_to_string(step.grad_norm) }
}

/// The clip norm as the run declared it; where it did not, the norm that its clipped steps were left with.
fn clip_norm(run: &Run) -> Option<f64> {
    let declared = run.log.start().and_then(|start| start.clip_norm);
    let seen = || run.log.steps().find(|e| e.class == Class::Clipped).map(|e| e.grad_norm_clipped);
    declared.or_else(seen).filter(|clip| clip.is_finite() && *clip > 0.0)
}
