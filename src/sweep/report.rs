//! The report of a sweep: the table as text, Markdown, page and JSON, with its charts.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::ablation::{Ablation, NoiseSplit, Row, Verdict, ablation};
use super::config::Sweep;
use super::results::Outcome;
use super::scaling::{Interval, Scaling, scaling};
use super::views::{View, short, views};
use crate::error::{Error, Result};
use crate::report::{plot, shell};

/// A report, computed.
pub struct Report {
    /// The comparison.
    pub ablation: Ablation,
    /// Sizes, where the sweep has them.
    pub scaling: Option<Scaling>,
    /// The charts.
    pub views: Vec<View>,
    title: String,
    min_effect: f64,
    lines: Vec<String>,
    noise: Vec<String>,
    sizes: Vec<String>,
}

/// The columns of the table, what one wants to know first; all but the first two are numbers.
const COLUMNS: [&str; 10] =
    ["arm", "verdict", "n", "loss", "difference", "std. error", "interval", "p", "corrected p", "detectable"];
/// Columns of text.
const WORDS: usize = 2;

fn cells(row: &Row, min_effect: f64) -> [String; 10] {
    let six = |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.6}"));
    let signed = |value: f64| format!("{value:+.6}");
    let c = row.comparison.as_ref();
    [
        row.arm.clone(),
        row.verdict.words() + small(row, min_effect),
        row.losses.len().to_string(),
        six(row.mean),
        c.map_or(String::new(), |c| signed(c.difference)),
        c.map_or(String::new(), |c| format!("{:.6}", c.standard_error)),
        c.map_or(String::new(), |c| format!("{:+.6} to {:+.6}", c.interval.0, c.interval.1)),
        c.map_or(String::new(), |c| probability(c.p)),
        c.map_or(String::new(), |c| probability(c.p_corrected)),
        c.map_or(String::new(), |c| format!("{:.6}", c.smallest_effect)),
    ]
}

/// A difference may be certain and still not worth the trouble.
fn small(row: &Row, min_effect: f64) -> &'static str {
    let called = matches!(row.verdict, Verdict::Better | Verdict::Worse);
    match row.comparison.as_ref().filter(|c| called && c.difference.abs() < min_effect) {
        Some(_) => ", by less than min_effect",
        None => "",
    }
}

fn probability(p: f64) -> String {
    if p < 0.0001 { "<0.0001".into() } else { format!("{p:.4}") }
}

/// Computes the report of a sweep from its outcomes.
pub fn report(sweep: &Sweep, outcomes: &[Outcome]) -> Report {
    let ablation = ablation(sweep, outcomes);
    let scaling = scaling(sweep, outcomes);
    let views = views(sweep, outcomes, &ablation, scaling.as_ref());
    let title =
        format!("{} · {} arms, {} of {} runs finished", sweep.name, sweep.arms.len(), ablation.runs.0, ablation.runs.1);
    let lines = explain(sweep, &ablation);
    let noise = ablation.noise.iter().flat_map(noise_lines).collect();
    let sizes = scaling.iter().flat_map(size_lines).collect();
    Report { ablation, scaling, views, title, min_effect: sweep.min_effect, lines, noise, sizes }
}

/// What the columns mean, in this sweep's own numbers.
fn explain(sweep: &Sweep, ablation: &Ablation) -> Vec<String> {
    let level = 100.0 * (1.0 - sweep.alpha);
    let split = ablation.split.as_deref().unwrap_or("val");
    let vary: Vec<&str> =
        [(sweep.vary.init, "initial weights"), (sweep.vary.data, "data order"), (sweep.vary.dropout, "dropout")]
            .iter()
            .filter(|(varies, _)| *varies)
            .map(|(_, name)| *name)
            .collect();
    let mut lines = vec![
        format!(
            "Loss: nats per token on the split {split:?} after the last step, mean over n seeds, which set {}.",
            vary.join(", ")
        ),
        format!(
            "Difference: from {}, negative is better; of pairs of runs with the same seed where arms share seeds. Interval: \
             {level:.0}% confidence. p: t test; corrected (Holm) for {} comparisons.",
            sweep.arms[sweep.baseline].name, ablation.comparisons
        ),
        format!(
            "Detectable: the smallest true difference that this row would call with {:.0}% probability. Verdict: better or worse \
             if corrected p is at most {:.2}; else within noise if the interval lies within ±{}; else undecided.",
            100.0 * sweep.power,
            sweep.alpha,
            sweep.min_effect
        ),
    ];
    lines.extend(ablation.notes.iter().map(|note| format!("Note: {note}.")));
    let unfinished: usize = ablation.rows.iter().map(|row| row.unfinished).sum();
    if unfinished > 0 {
        lines.push(format!("Note: {unfinished} runs of the arms are not finished; the table is over those that are."));
    }
    lines.extend(ablation.failures.iter().map(|(job, message)| format!("Failed: {job}: {message}")));
    lines
}

fn noise_lines(noise: &NoiseSplit) -> Vec<String> {
    let share = |variance: f64| match noise.variance_total > 0.0 {
        true => format!("{:.0}%", 100.0 * variance.max(0.0) / noise.variance_total),
        false => "0%".into(),
    };
    let line = |name: &str, variance: f64| {
        let negative = if variance < 0.0 { " (estimate below zero: none seen)" } else { "" };
        format!(
            "{name}: standard deviation {:.6}, {} of the variance{negative}",
            variance.max(0.0).sqrt(),
            share(variance)
        )
    };
    let n = noise.seeds.len();
    vec![
        format!(
            "Noise of the baseline from {n} initialisation seeds crossed with {n} training seeds ({} runs):",
            n * n
        ),
        line("initialisation", noise.variance_init),
        line("training (data order, dropout)", noise.variance_training),
        line("both together", noise.variance_interaction),
        line("a run with new seeds", noise.variance_total),
        format!("With so few seeds these are rough: a variance from {n} seeds has {} degrees of freedom.", n - 1),
    ]
}

fn size_lines(scaling: &Scaling) -> Vec<String> {
    let interval = |i: &Interval, digits: usize| match i.low.is_finite() {
        true => format!("{:.digits$} ({:.digits$} to {:.digits$})", i.value, i.low, i.high),
        false => format!("{:.digits$}", i.value),
    };
    let mut lines = Vec::new();
    match &scaling.law {
        Some(law) => {
            lines.push(match (&law.b, &law.beta) {
                (Some(_), Some(beta)) => format!(
                    "L = E + A / N^alpha + B / D^beta: E = {}, alpha = {}, beta = {}; residuals {:.6} (root mean square); \
                     95% bootstrap intervals",
                    interval(&law.e, 3),
                    interval(&law.alpha, 3),
                    interval(beta, 3),
                    law.rms
                ),
                _ => format!(
                    "L = E + A / N^alpha at one amount of data: E = {}, alpha = {}; residuals {:.6} (root mean square); 95% \
                     bootstrap intervals",
                    interval(&law.e, 3),
                    interval(&law.alpha, 3),
                    law.rms
                ),
            });
            if law.at_bound {
                lines.push("An exponent ended at the bound of the search: these runs do not determine it; train sizes further apart.".into());
            }
        }
        None => {
            lines.push("No law was fitted: it needs at least 3 sizes, and 3 amounts of data where those differ.".into())
        }
    }
    for budget in &scaling.budgets {
        lines.push(match budget.best_parameters {
            Some(best) if budget.inside => {
                format!("At {:.3e} FLOPs: best size {} parameters", budget.flops, short(best))
            }
            Some(_) => format!("At {:.3e} FLOPs: the best size lies outside the sizes trained", budget.flops),
            None => format!("At {:.3e} FLOPs: the parabola has no minimum", budget.flops),
        });
    }
    if let Some((_, exponent)) = scaling.best_size {
        lines.push(format!("Best size grows with compute to the power {exponent:.3} (isoFLOP)"));
    }
    for p in &scaling.predictions {
        let range = match p.parameters.low.is_finite() {
            true => format!(" ({} to {})", short(p.parameters.low), short(p.parameters.high)),
            false => String::new(),
        };
        let loss = p.loss.map_or(String::new(), |loss| format!(", loss {loss:.3}"));
        lines.push(format!(
            "Budget {:.3e} FLOPs: {} parameters{range} on {} tokens{loss} (by the {})",
            p.flops,
            short(p.parameters.value),
            short(p.tokens),
            if p.method == "law" { "law" } else { "isoFLOP parabolas" }
        ));
    }
    lines
}

impl Report {
    /// For a terminal.
    pub fn text(&self) -> String {
        let rows: Vec<[String; 10]> = self.ablation.rows.iter().map(|row| cells(row, self.min_effect)).collect();
        let width =
            |i: usize| rows.iter().map(|row| row[i].chars().count()).chain([COLUMNS[i].len()]).max().unwrap_or(0);
        let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match i {
                0..WORDS => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
        };
        let mut text = format!("{}\n\n{}\n", self.title, line(&COLUMNS.map(String::from)));
        rows.iter().for_each(|row| text += &format!("{}\n", line(row)));
        for block in [&self.lines, &self.noise, &self.sizes].into_iter().filter(|block| !block.is_empty()) {
            text += &format!("\n{}\n", block.join("\n"));
        }
        text
    }

    /// For a repository: the same with the charts.
    pub fn markdown(&self) -> String {
        let escape = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let mut text =
            format!("# {}\n\n| {} |\n| - | - |{}\n", escape(&self.title), COLUMNS.join(" | "), " -: |".repeat(8));
        for row in &self.ablation.rows {
            text += &format!("| {} |\n", cells(row, self.min_effect).map(|cell| escape(&cell)).join(" | "));
        }
        for line in self.lines.iter().chain(&self.noise).chain(&self.sizes) {
            text += &format!("\n{}\n", escape(line));
        }
        text += "\nWhat each arm changes:\n\n";
        for row in &self.ablation.rows {
            let changes = if row.changes.is_empty() { "nothing".into() } else { row.changes.join("; ") };
            text += &format!("- {}: {}\n", row.arm, escape(&changes));
        }
        for view in &self.views {
            text += &format!("\n![{}]({}.png)\n", escape(&view.plot.title), view.stem);
        }
        text
    }

    /// The numbers.
    pub fn json(&self, sweep: &Sweep) -> Result<serde_json::Value> {
        let wrong = |error: serde_json::Error| {
            Error::data(&sweep.out, format!("the report cannot be written as JSON: {error}"))
        };
        let arms = |i: usize| sweep.arms[i].name.clone();
        Ok(json!({
            "sweep": sweep.name,
            "baseline": arms(sweep.baseline),
            "confidence": 1.0 - sweep.alpha,
            "power": sweep.power,
            "min_effect": sweep.min_effect,
            "seeds": sweep.seeds,
            "ablation": serde_json::to_value(&self.ablation).map_err(wrong)?,
            "scaling": serde_json::to_value(&self.scaling).map_err(wrong)?,
        }))
    }

    fn html(&self) -> Result<String> {
        let escape = shell::text;
        let mut body = format!("<h1>{}</h1>\n<div class=\"wide-table\">\n<table>\n<thead><tr>", escape(&self.title));
        let class = |i: usize| match i {
            0 => "",
            1 => " class=\"verdict\"",
            _ => " class=\"number\"",
        };
        for (i, name) in COLUMNS.iter().enumerate() {
            let _ = write!(body, "<th scope=\"col\"{}>{name}</th>", class(i));
        }
        body += "</tr></thead>\n<tbody>\n";
        for row in &self.ablation.rows {
            body += "<tr>";
            for (i, cell) in cells(row, self.min_effect).iter().enumerate() {
                let _ = match i {
                    0 => write!(
                        body,
                        "<th scope=\"row\" title=\"{}\">{}</th>",
                        escape(&row.changes.join("; ")),
                        escape(cell)
                    ),
                    _ => write!(body, "<td{}>{}</td>", class(i), escape(cell)),
                };
            }
            body += "</tr>\n";
        }
        body += "</tbody>\n</table>\n</div>\n";
        self.lines.iter().for_each(|line| body += &format!("<p>{}</p>\n", escape(line)));
        for view in &self.views {
            body += &plot::figure_element(&view.plot)?;
        }
        for (heading, lines) in [("Noise by source", &self.noise), ("Size and compute", &self.sizes)] {
            if !lines.is_empty() {
                body += &format!("<h2>{heading}</h2>\n");
                lines.iter().for_each(|line| body += &format!("<p>{}</p>\n", escape(line)));
            }
        }
        body += "<h2>What each arm changes</h2>\n<table>\n";
        for row in &self.ablation.rows {
            let changes = if row.changes.is_empty() { "nothing".into() } else { row.changes.join("; ") };
            let _ = writeln!(body, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(&row.arm), escape(&changes));
        }
        body += "</table>\n";
        Ok(shell::page(&self.title, &body))
    }

    /// Writes `report.md`, `report.json`, `index.html` and the charts as PNG and SVG into a folder; gives the files.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, sweep: &Sweep, out: &Path) -> Result<Vec<PathBuf>> {
        std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
        let mut files = vec![
            shell::write(out.join("report.md"), self.markdown().as_bytes())?,
            shell::write(out.join("report.json"), format!("{:#}\n", self.json(sweep)?).as_bytes())?,
            shell::write(out.join("index.html"), self.html()?.as_bytes())?,
        ];
        for view in &self.views {
            files.push(shell::write(out.join(format!("{}.png", view.stem)), &plot::png(&view.plot)?)?);
            files.push(shell::write(out.join(format!("{}.svg", view.stem)), plot::svg(&view.plot)?.as_bytes())?);
        }
        Ok(files)
    }
}
