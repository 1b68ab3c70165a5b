//! Reports: a run's event log as charts (PNG and SVG), a page and a summary. Reads files, never touches a device.
//!
//! The way of a report: [`Run::load`] reads the log; each chart of [`charts::CHARTS`] is a pure function from runs to a
//! [`figure::Figure`]; `draw` turns a figure into pixels through `canvas`; `page` puts everything into one HTML file.
//! Every function takes a slice of runs, so that several can be overlaid.
//!
//! Unusual: files appear whole or not at all (written aside, then renamed), since a report is drawn at every checkpoint
//! while somebody may be looking at it. Nothing random or timed is drawn: the same log gives the same bytes.

pub mod axis;
mod canvas;
pub mod charts;
mod draw;
pub mod figure;
mod page;
mod paint;
pub mod plot;
mod png;
pub mod shell;
mod summary;

pub use summary::{ClassCounts, LossAt, State, Summary, summary};

use crate::error::{Error, Result};
use crate::events::EventLog;
use std::path::{Path, PathBuf};

/// A run as reports see it.
#[derive(Clone, Debug)]
pub struct Run {
    /// The name of its folder.
    pub name: String,
    /// What happened.
    pub log: EventLog,
    /// The text of its config.toml, if there is one.
    pub config: Option<String>,
}

impl Run {
    /// Reads a run folder.
    ///
    /// # Errors
    /// If there is no event log, or it is damaged, or nothing in it could be shown.
    pub fn load(run_dir: impl AsRef<Path>) -> Result<Self> {
        let run_dir = run_dir.as_ref();
        let events = run_dir.join("events.jsonl");
        if !events.is_file() {
            let what = if run_dir.is_dir() { "holds no events.jsonl" } else { "does not exist" };
            return Err(Error::usage(format!(
                "{} {what}; a report needs the folder of a run, such as runs/quickstart",
                run_dir.display()
            )));
        }
        let log = EventLog::read(&events)?;
        if log.steps().next().is_none() && log.evals().next().is_none() {
            return Err(Error::data(
                &events,
                "there is nothing to draw yet: the log holds no step and no evaluation; try again once the run has made a step",
            ));
        }
        let config = std::fs::read(run_dir.join("config.toml")).ok();
        let config = config.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Self { name: name_of(run_dir), log, config })
    }

    /// The splits that were evaluated, "val" first.
    pub fn splits(&self) -> Vec<String> {
        summary::splits(&self.log)
    }
}

/// The last part of a path, looked up on disk where the path as given has none (`.`, `runs/..`).
fn name_of(run_dir: &Path) -> String {
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    last(run_dir).or_else(|| last(&run_dir.canonicalize().ok()?)).unwrap_or_else(|| "run".into())
}

/// Draws the report of a run into its folder `report/`, and returns the files written: a PNG and an SVG for each chart
/// that has anything to show, and `index.html`.
///
/// # Errors
/// If the log cannot be read or holds nothing to draw, or a file cannot be written.
pub fn draw(run_dir: &Path) -> Result<Vec<PathBuf>> {
    draw_run(&Run::load(run_dir)?, &run_dir.join("report"))
}

/// Draws the report of a loaded run into any folder, which is made where it is missing; see [`draw`].
///
/// # Errors
/// If a file cannot be written.
pub fn draw_run(run: &Run, out: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let runs = std::slice::from_ref(run);
    let (mut files, mut figures) = (Vec::new(), Vec::new());
    for chart in charts::CHARTS {
        let figure = (chart.figure)(runs);
        if figure.is_empty() {
            continue;
        }
        for (extension, bytes) in [("png", draw::png(&figure)?), ("svg", draw::svg(&figure)?.into_bytes())] {
            files.push(write_whole(out.join(format!("{}.{extension}", chart.stem)), &bytes)?);
        }
        figures.push(figure);
    }
    files.push(write_whole(out.join("index.html"), page::page(run, &figures)?.as_bytes())?);
    Ok(files)
}

/// One chart of a run as a PNG file, by its stem; `None` if there is nothing to show, or no such chart.
///
/// # Errors
/// If it cannot be drawn.
pub fn picture(run: &Run, stem: &str) -> Result<Option<Vec<u8>>> {
    let chart = charts::CHARTS.iter().find(|chart| chart.stem == stem);
    let figure = chart.map(|chart| (chart.figure)(std::slice::from_ref(run))).filter(|figure| !figure.is_empty());
    figure.map(|figure| draw::png(&figure)).transpose()
}

/// Writes a file aside and renames it into place, so that no reader meets half of it.
fn write_whole(path: PathBuf, bytes: &[u8]) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // The process id, because two reports of the same run may be drawn at the same time.
    let aside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let outcome = std::fs::write(&aside, bytes).and_then(|()| std::fs::rename(&aside, &path));
    if outcome.is_err() {
        // The error that counts is the first one.
        let _ = std::fs::remove_file(&aside);
    }
    outcome.map_err(Error::io("write", &path))?;
    Ok(path)
}
