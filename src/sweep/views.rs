//! The charts of a sweep: effects, loss against learning rate, loss against size and compute.

use super::ablation::{Ablation, Verdict};
use super::config::Sweep;
use super::results::Outcome;
use super::scaling::Scaling;
use crate::report::plot::{Group, Plot, Spot, Style};
use crate::stats::mean;

/// A chart and the stem of its files.
pub struct View {
    /// `effects` gives `effects.png` and `effects.svg`.
    pub stem: &'static str,
    /// The chart.
    pub plot: Plot,
}

const LOSS: &str = "final validation loss (nats per token)";
/// Points of a curve.
const CURVE: usize = 120;

fn plot(title: String, x_label: &str, y_label: &str, x_log: bool) -> Plot {
    let (x_label, y_label) = (x_label.into(), y_label.into());
    let (names, groups, verticals, levels) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    Plot { title, x_label, y_label, x_log, names, groups, verticals, levels, beyond: None }
}

fn group(label: &str, ink: usize, style: Style, points: impl IntoIterator<Item = (f64, f64)>) -> Group {
    let spots = points.into_iter().map(|(x, y)| Spot { x, y, range: None }).collect();
    Group { label: label.into(), ink, style, spots }
}

/// All charts that a sweep has something for.
pub fn views(sweep: &Sweep, outcomes: &[Outcome], ablation: &Ablation, scaling: Option<&Scaling>) -> Vec<View> {
    let mut views: Vec<View> = Vec::new();
    views.extend(effects(sweep, ablation).map(|plot| View { stem: "effects", plot }));
    views.extend(learning_rate(sweep, outcomes).map(|plot| View { stem: "learning_rate", plot }));
    if let Some(scaling) = scaling {
        views.push(View { stem: "loss_parameters", plot: parameters(sweep, scaling) });
        views.push(View { stem: "loss_flops", plot: compute(sweep, scaling) });
        if scaling.law.is_some() {
            views.push(View { stem: "residuals", plot: residuals(sweep, scaling) });
        }
        if !scaling.budgets.is_empty() {
            views.push(View { stem: "isoflop", plot: isoflop(sweep, scaling) });
        }
    }
    views
}

/// Each arm's difference from the baseline with its interval, the best on top.
fn effects(sweep: &Sweep, ablation: &Ablation) -> Option<Plot> {
    let baseline = &sweep.arms[sweep.baseline].name;
    let title = format!("{} · difference from {baseline}", sweep.name);
    let mut plot = plot(title, "difference in final validation loss (nats per token; left is better)", "", false);
    let level = format!("{}%", percent(1.0 - sweep.alpha));
    let labels = [(5, "better"), (4, "worse"), (0, "within noise"), (2, "undecided")];
    let mut groups: Vec<Group> =
        labels.iter().map(|(ink, word)| group(&format!("{word}, {level} interval"), *ink, Style::Dots, [])).collect();
    let mut single = group("single pairs of runs", 2, Style::Pale, []);
    for row in &ablation.rows {
        let Some(c) = &row.comparison else { continue };
        let place = plot.names.len() as f64;
        plot.names.push(row.arm.clone());
        let which = match row.verdict {
            Verdict::Better => 0,
            Verdict::Worse => 1,
            Verdict::WithinNoise => 2,
            _ => 3,
        };
        groups[which].spots.push(Spot { x: c.difference, y: place, range: Some(c.interval) });
        // A little below the mean, which would hide them.
        single.spots.extend(c.pairs.iter().map(|(_, d)| Spot { x: *d, y: place + 0.28, range: None }));
    }
    if plot.names.is_empty() {
        return None;
    }
    groups.insert(0, single);
    plot.groups = groups.into_iter().filter(|group| !group.spots.is_empty()).collect();
    let edge = format!("smallest effect of interest, ±{}", sweep.min_effect);
    plot.verticals =
        vec![(0.0, baseline.clone(), 2), (-sweep.min_effect, edge, 1), (sweep.min_effect, String::new(), 1)];
    Some(plot)
}

fn percent(share: f64) -> String {
    let text = format!("{:.1}", 100.0 * share);
    text.trim_end_matches(".0").to_string()
}

/// Final loss against learning rate: a line for each group of arms that differ in nothing else.
fn learning_rate(sweep: &Sweep, outcomes: &[Outcome]) -> Option<Plot> {
    const KEY: &str = "optimizer.lr";
    let mut lines: Vec<(String, Vec<(f64, usize)>)> = Vec::new();
    for (i, arm) in sweep.arms.iter().enumerate() {
        let rest: Vec<String> = arm
            .set
            .iter()
            .filter(|(key, _)| key != KEY)
            .map(|(k, v)| format!("{} = {v}", k.rsplit('.').next().unwrap_or(k)))
            .collect();
        let rate = sweep.resolve(arm).ok()?.optimizer.lr;
        let rest = if rest.is_empty() { "base config".into() } else { rest.join(", ") };
        match lines.iter_mut().find(|(name, _)| *name == rest) {
            Some((_, arms)) => arms.push((rate, i)),
            None => lines.push((rest, vec![(rate, i)])),
        }
    }
    lines.retain(|(_, arms)| arms.len() >= 3);
    if lines.is_empty() {
        return None;
    }
    let mut plot = plot(format!("{} · learning rate", sweep.name), "learning rate", LOSS, true);
    let mut beyond = Vec::new();
    for (ink, (name, arms)) in lines.iter_mut().enumerate() {
        arms.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut means, mut single) = (Vec::new(), Vec::new());
        for &(rate, arm) in arms.iter() {
            let runs = || outcomes.iter().filter(|o| o.job.arm == arm && o.job.training.is_none());
            beyond.extend(runs().filter(|o| o.diverged()).map(|_| rate));
            let losses: Vec<f64> = runs().filter(|o| !o.diverged()).filter_map(Outcome::final_loss).collect();
            single.extend(losses.iter().map(|loss| (rate, *loss)));
            if !losses.is_empty() {
                means.push((rate, mean(&losses)));
            }
        }
        plot.groups.push(group(if ink == 0 { "single runs" } else { "" }, ink, Style::Pale, single));
        plot.groups.push(group(&format!("mean over seeds, {name}"), ink, Style::Both, means));
    }
    let count = beyond.len();
    beyond.dedup();
    plot.beyond =
        (count > 0).then(|| (format!("diverged ({count} {})", if count == 1 { "run" } else { "runs" }), beyond));
    Some(plot)
}

/// The different amounts of data, rounded to three digits so that the last step's remainder does not count.
fn amounts(scaling: &Scaling) -> Vec<f64> {
    let mut tokens: Vec<f64> = scaling.points.iter().map(|p| p.tokens).collect();
    tokens.sort_by(f64::total_cmp);
    tokens.dedup_by(|a, b| *a < 1.01 * *b);
    tokens
}

fn curve(low: f64, high: f64, value: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    (0..=CURVE).map(|i| low * (high / low).powf(i as f64 / CURVE as f64)).map(|x| (x, value(x))).collect()
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(low, high), value| (low.min(value), high.max(value)))
}

/// Loss against parameters, a colour for each amount of data, with the law through them.
fn parameters(sweep: &Sweep, scaling: &Scaling) -> Plot {
    let mut plot = plot(format!("{} · loss against size", sweep.name), "parameters", LOSS, true);
    let (low, high) = range(scaling.points.iter().map(|p| p.parameters));
    for (ink, tokens) in amounts(scaling).into_iter().enumerate() {
        let here = scaling.points.iter().filter(|p| (p.tokens / tokens - 1.0).abs() < 0.01);
        let label = format!("{} tokens", short(tokens));
        plot.groups.push(group(&label, ink, Style::Dots, here.map(|p| (p.parameters, p.loss))));
        if let Some(law) = scaling.law.as_ref().and_then(|law| law.law) {
            let label = if ink == 0 { "fitted law" } else { "" };
            plot.groups.push(group(label, ink, Style::Line, curve(low, high, |n| law.loss(n, tokens))));
        }
    }
    if let Some(law) = &scaling.law {
        plot.levels.push((law.e.value, format!("irreducible loss E = {:.3}", law.e.value), 2));
        // Far below the points it would press them together.
        let (least, most) = range(scaling.points.iter().map(|p| p.loss));
        plot.levels.retain(|level| least - level.0 < 1.5 * (most - least));
    }
    plot
}

/// Loss against training operations, a colour for each size.
fn compute(sweep: &Sweep, scaling: &Scaling) -> Plot {
    let mut plot = plot(format!("{} · loss against compute", sweep.name), "training FLOPs", LOSS, true);
    let mut sizes: Vec<f64> = scaling.points.iter().map(|p| p.parameters).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    for (ink, size) in sizes.into_iter().enumerate() {
        let mut here: Vec<(f64, f64)> =
            scaling.points.iter().filter(|p| p.parameters == size).map(|p| (p.flops, p.loss)).collect();
        here.sort_by(|a, b| a.0.total_cmp(&b.0));
        plot.groups.push(group(&format!("{} parameters", short(size)), ink, Style::Dots, here));
    }
    plot
}

/// What the law leaves: a pattern here says that it is the wrong law.
fn residuals(sweep: &Sweep, scaling: &Scaling) -> Plot {
    let mut plot =
        plot(format!("{} · residuals of the law", sweep.name), "parameters", "loss minus law (nats per token)", true);
    for (ink, tokens) in amounts(scaling).into_iter().enumerate() {
        let here = scaling.points.iter().filter(|p| (p.tokens / tokens - 1.0).abs() < 0.01);
        let points: Vec<(f64, f64)> = here.filter_map(|p| Some((p.parameters, p.residual?))).collect();
        plot.groups.push(group(&format!("{} tokens", short(tokens)), ink, Style::Dots, points));
    }
    plot.levels.push((0.0, "the law".into(), 2));
    plot
}

/// Loss against size at equal compute, with parabolas and their lowest points.
fn isoflop(sweep: &Sweep, scaling: &Scaling) -> Plot {
    let mut plot = plot(format!("{} · isoFLOP curves", sweep.name), "parameters", LOSS, true);
    for (ink, budget) in scaling.budgets.iter().enumerate() {
        let label = format!("{:.2e} FLOPs", budget.flops);
        plot.groups.push(group(&label, ink, Style::Dots, budget.points.iter().copied()));
        if let Some(parabola) = budget.parabola {
            let (low, high) = range(budget.points.iter().map(|p| p.0));
            plot.groups.push(group("", ink, Style::Line, curve(low, high, |n| parabola.loss(n))));
            if budget.inside {
                plot.verticals.push((parabola.best, format!("best: {} parameters", short(parabola.best)), ink));
            }
        }
    }
    plot
}

/// A size for people.
pub(super) fn short(value: f64) -> String {
    for (unit, size) in [("B", 1e9), ("M", 1e6), ("k", 1e3)] {
        if value >= size {
            let digits = if value / size >= 100.0 {
                0
            } else if value / size >= 10.0 {
                1
            } else {
                2
            };
            return format!("{:.digits$}{unit}", value / size);
        }
    }
    format!("{value:.0}")
}
