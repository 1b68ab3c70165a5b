//! Reports: a run's event log as charts (PNG and SVG), a page and a summary. Reads files, never touches a device.
//!
//! The way of a report: [`Run::load`] reads the log; each chart of [`charts::CHARTS`] is a pure function from runs to a
//! [`figure::Figure`]; `draw` turns a figure into pixels through `canvas`; `page` puts everything into one HTML file.
//! Every function takes a slice of runs: several are overlaid. The same numbers leave in other forms through [`csv`],
//! [`json`] and [`tensorboard`].
//!
//! Unusual: files appear whole or not at all (written aside, then renamed), since a report is drawn at every checkpoint
//! while somebody may be looking at it. Nothing random or timed is drawn: the same log gives the same bytes.
//!
//! ```
//! use taper::events::{Class, Event, EventWriter, Step};
//! use taper::report;
//!
//! let folder = tempfile::tempdir().unwrap();
//! let mut log = EventWriter::create(&folder.path().join("events.jsonl"))?;
//! for step in 1..=20 {
//!     log.write(&Event::Step(Step {
//!         step,
//!         tokens: step * 1024,
//!         loss: 4.0 / step as f64,
//!         lr: 1e-3,
//!         grad_norm: 1.5,
//!         grad_norm_clipped: 1.0,
//!         class: Class::Clipped,
//!         step_ms: 10.0,
//!         tokens_per_s: 102_400.0,
//!         mfu: None,
//!     }))?;
//! }
//! log.sync()?;
//! let run = report::Run::load(folder.path())?;
//! assert_eq!(report::summary(&run.log).steps, 20);
//! let files = report::draw(folder.path())?;
//! assert!(files.iter().any(|file| file.ends_with("loss.png")));
//! # Ok::<(), taper::Error>(())
//! ```

pub mod axis;
mod benchmarks;
mod canvas;
pub mod charts;
pub mod csv;
pub mod differences;
mod draw;
mod escape;
pub mod figure;
pub mod incidents;
pub mod json;
mod page;
mod paint;
pub mod plot;
mod png;
pub mod shell;
mod summary;
pub mod tensorboard;

pub use summary::{ClassCounts, LossAt, State, Summary, summary};

use crate::error::{Error, Result};
use crate::events::EventLog;
use std::path::{Path, PathBuf};

/// A run as reports see it.
#[derive(Clone, Debug)]
pub struct Run {
    /// The name of its folder.
    pub name: String,
    /// Its folder, as given.
    pub path: PathBuf,
    /// What happened.
    pub log: EventLog,
    /// The text of its config.toml, if there is one.
    pub config: Option<String>,
    /// The text of its environment.json, if there is one.
    pub environment: Option<String>,
    /// For each optimizer step, ascending: the step, and the seconds that all steps until then took.
    clock: Vec<(u64, f64)>,
    /// From the log's start.
    flops_per_token: Option<f64>,
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
        let text = |name: &str| {
            let bytes = std::fs::read(run_dir.join(name)).ok();
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let (config, environment) = (text("config.toml"), text("environment.json"));
        let clock = clock(&log);
        let flops_per_token = log.start().and_then(|start| start.flops_per_token);
        let (name, path) = (name_of(run_dir), run_dir.to_path_buf());
        Ok(Self { name, path, log, config, environment, clock, flops_per_token })
    }

    /// Reads several run folders; those of the same name are told apart by the end of their paths, `baseline/seed-1`.
    ///
    /// # Errors
    /// Those of [`Run::load`], and if a folder is given twice.
    pub fn load_all(run_dirs: &[PathBuf]) -> Result<Vec<Self>> {
        let mut runs: Vec<Run> = run_dirs.iter().map(Run::load).collect::<Result<_>>()?;
        let real = |run: &Run| run.path.canonicalize().unwrap_or_else(|_| run.path.clone());
        for (i, run) in runs.iter().enumerate() {
            if runs[..i].iter().any(|other| real(other) == real(run)) {
                return Err(Error::usage(format!("the run {} is given twice", run.path.display())));
            }
        }
        for parts in 2.. {
            let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
            let shared = |name: &String| names.iter().filter(|other| *other == name).count() > 1;
            if !names.iter().any(shared) {
                break;
            }
            let paths: Vec<PathBuf> = runs.iter().map(real).collect();
            for ((run, name), path) in runs.iter_mut().zip(&names).zip(&paths) {
                let all: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
                if shared(name) {
                    run.name = all[all.len().saturating_sub(parts)..].join("/");
                }
            }
        }
        Ok(runs)
    }

    /// The same run by another name.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// The seconds that the optimizer steps until this one took; what was done between them is not counted, nor what a
    /// resume took back.
    pub fn seconds_at(&self, step: u64) -> Option<f64> {
        match self.clock.partition_point(|(at, _)| *at <= step) {
            0 => (step == 0).then_some(0.0),
            found => Some(self.clock[found - 1].1),
        }
    }

    /// Floating-point operations of training on so many tokens, where the log tells those of one.
    pub fn flops_at(&self, tokens: u64) -> Option<f64> {
        self.flops_per_token.map(|flops| flops * tokens as f64)
    }

    /// The seconds that all optimizer steps took.
    pub fn seconds(&self) -> f64 {
        self.clock.last().map_or(0.0, |(_, seconds)| *seconds)
    }

    /// The splits that were evaluated, "val" first.
    pub fn splits(&self) -> Vec<String> {
        summary::splits(&self.log)
    }
}

/// The running sum of the times of the steps; a step without one takes none.
fn clock(log: &EventLog) -> Vec<(u64, f64)> {
    let mut seconds = 0.0;
    let tick = |e: &crate::events::Step| {
        seconds += if e.step_ms.is_finite() { e.step_ms / 1e3 } else { 0.0 };
        (e.step, seconds)
    };
    log.steps().map(tick).collect()
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

/// As [`draw`], in half the time, for a run that continues: of charts that differ only in what they are drawn against, the
/// page has all, and files are made of the first.
///
/// # Errors
/// See [`draw`].
pub fn draw_often(run_dir: &Path) -> Result<Vec<PathBuf>> {
    draw_some(&[Run::load(run_dir)?], &run_dir.join("report"), |chart| chart.stem == chart.group)
}

/// Draws the report of a loaded run into any folder, which is made where it is missing; see [`draw`].
///
/// # Errors
/// If a file cannot be written.
pub fn draw_run(run: &Run, out: &Path) -> Result<Vec<PathBuf>> {
    draw_runs(std::slice::from_ref(run), out)
}

/// Draws one report of one or several loaded runs, overlaid; see [`draw`].
///
/// # Errors
/// If a file cannot be written.
pub fn draw_runs(runs: &[Run], out: &Path) -> Result<Vec<PathBuf>> {
    draw_some(runs, out, |_| true)
}

/// Draws the page, and files of some charts.
fn draw_some(runs: &[Run], out: &Path, wanted: fn(&charts::Chart) -> bool) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let mut files = Vec::new();
    let figures = figures_of(runs);
    for (chart, figure) in figures.iter().filter(|(chart, _)| wanted(chart)) {
        for (extension, bytes) in [("png", draw::png(figure)?), ("svg", draw::svg(figure)?.into_bytes())] {
            files.push(write_whole(out.join(format!("{}.{extension}", chart.stem)), &bytes)?);
        }
    }
    files.push(write_whole(out.join("index.html"), page::page(runs, &figures)?.as_bytes())?);
    Ok(files)
}

/// The charts that have anything to show.
pub fn figures_of(runs: &[Run]) -> Vec<(&'static charts::Chart, figure::Figure)> {
    let all = charts::CHARTS.iter().map(|chart| (chart, (chart.figure)(runs)));
    all.filter(|(_, figure)| !figure.is_empty()).collect()
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
