//! Every number of a report as one JSON object, for programs. Keys are stable: they may be added, never renamed, while
//! [`SCHEMA`] is the same. docs/report.md describes them to users.

use super::figure::{Figure, Kind, Series, envelope};
use super::{Run, charts::Chart, differences, incidents, summary};
use crate::error::{Error, Result};
use crate::events::number_to_string;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The version of the object's layout.
pub const SCHEMA: u64 = 1;

/// Series of up to so many points are given in full; of longer ones the smallest and largest value in so many equal parts.
const POINTS: usize = 1000;

/// The report of these runs; `files` is what was written.
///
/// # Errors
/// If something cannot be written as JSON.
pub fn json(runs: &[Run], figures: &[(&Chart, Figure)], files: &[PathBuf]) -> Result<Value> {
    let runs_json: Vec<Value> = runs.iter().map(run).collect::<Result<_>>()?;
    let charts: Vec<Value> = figures.iter().map(|(chart, figure)| figure_json(chart.stem, figure)).collect();
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let differences = if runs.len() > 1 { differences::differences(runs) } else { Vec::new() };
    Ok(json!({
        "schema": SCHEMA,
        "files": files,
        "runs": runs_json,
        "differences": value(&differences)?,
        "charts": charts,
    }))
}

fn value(what: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(what).map_err(|error| Error::data("the report", format!("cannot be written as JSON: {error}")))
}

fn run(run: &Run) -> Result<Value> {
    let evals: Vec<Value> = run
        .log
        .evals()
        .map(|e| {
            let (seconds, loss) = (run.seconds_at(e.step), number(e.loss));
            json!({"step": e.step, "tokens": e.tokens, "time_s": seconds, "split": e.split, "loss": loss})
        })
        .collect();
    let samples: Vec<Value> =
        run.log.samples().map(|e| json!({"step": e.step, "prompt": e.prompt, "text": e.text})).collect();
    Ok(json!({
        "name": run.name,
        "run": run.path.display().to_string(),
        "torn": run.log.torn,
        "summary": value(&summary(&run.log))?,
        "evals": evals,
        "incidents": value(&incidents::incidents(run))?,
        "samples": samples,
    }))
}

fn figure_json(stem: &str, figure: &Figure) -> Value {
    let series: Vec<Value> = figure.series.iter().map(series).collect();
    let levels: Vec<Value> =
        figure.levels.iter().map(|(at, label, _)| json!({"label": label, "value": number(*at)})).collect();
    let marks: Vec<Value> = figure
        .marks
        .iter()
        .map(|m| json!({"label": m.label, "at": m.at.iter().map(|(x, _)| number(*x)).collect::<Vec<_>>()}))
        .collect();
    json!({
        "chart": stem,
        "title": figure.title,
        "x": figure.across.label(),
        "y": figure.y_label,
        "series": series,
        "levels": levels,
        "marks": marks,
    })
}

fn series(series: &Series) -> Value {
    let raw = matches!(series.kind, Kind::Raw | Kind::Glass);
    if series.points.len() <= POINTS + 1 {
        let points: Vec<Value> = series.points.iter().map(|&(x, y)| json!([number(x), number(y)])).collect();
        return json!({"label": series.label, "every_step": raw, "points": points});
    }
    let lo = series.points.first().map_or(0.0, |p| p.0);
    let hi = series.points.last().map_or(1.0, |p| p.0);
    let width = (hi - lo) / POINTS as f64;
    let extents = envelope(&series.points, lo, hi, POINTS);
    let extents: Vec<Value> =
        extents.iter().map(|e| json!([number(lo + e.column as f64 * width), number(e.min), number(e.max)])).collect();
    json!({"label": series.label, "every_step": raw, "envelope": extents})
}

/// A number as the event log spells it.
fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(number_to_string(value)) }
}
