//! `taper report`: draws the charts of runs, one or several overlaid, or the report of a sweep; prints their numbers, and
//! hands them on in other forms.

use crate::cli::ui::{print_json, print_line};
use crate::error::{Error, Result, ResultExt};
use crate::report::{Run, csv, draw_runs, figures_of, json, summary, tensorboard};
use crate::run::folder::EVENTS;
use crate::sweep::Sweep;
use crate::sweep::results::outcomes;
use std::path::PathBuf;

/// Arguments of `taper report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper report runs/quickstart                        draws into runs/quickstart/report/
  taper report runs/a runs/b                          overlays them, and says what differs: report/index.html
  taper report runs/a runs/b --csv both.csv           every measurement, for a spreadsheet or Weights & Biases
  taper report runs/ablation                          the folder of a sweep: the table of its arms
  taper report runs/quickstart --tensorboard tb       then: tensorboard --logdir tb
  taper report runs/quickstart --json                 the numbers as one JSON object (docs/report.md)")]
pub struct Args {
    /// Run folders, several of which are overlaid in one report; or the folder of a sweep.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where to draw [default: report/ in the folder of the run or sweep; report/ here for several runs].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write every measurement of every step into a table; docs/report.md describes its columns.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write TensorBoard event files into a folder for each run in there.
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Runs `taper report`.
///
/// # Errors
/// At the first run that cannot be read, or if something cannot be written.
pub fn run(args: Args) -> Result<()> {
    if let Some(sweep) = sweep(&args.runs)? {
        return of_sweep(&args, &sweep);
    }
    let runs = Run::load_all(&args.runs)?;
    let out = match (&args.out, &runs[..]) {
        (Some(out), _) => out.clone(),
        (None, [one]) => one.path.join("report"),
        (None, _) => PathBuf::from("report"),
    };
    let mut files = draw_runs(&runs, &out).context(|| format!("drawing the report into {}", out.display()))?;
    files.extend(hand_on(&args, &runs)?);
    if args.json {
        return print_json(&json::json(&runs, &figures_of(&runs), &files)?);
    }
    for run in &runs {
        print_line(&format!("{}{}", run.name, if run.log.torn { " (its log ends in a torn line)" } else { "" }))?;
        for (name, value) in summary(&run.log).rows() {
            print_line(&format!("  {name:<20}  {value}"))?;
        }
    }
    for file in &files {
        print_line(&format!("  wrote {}", file.display()))?;
    }
    Ok(())
}

/// Writes the runs' measurements for other programs, and gives the files.
fn hand_on(args: &Args, runs: &[Run]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if let Some(path) = &args.csv {
        std::fs::write(path, csv::csv(runs)).map_err(Error::io("write", path))?;
        files.push(path.clone());
    }
    if let Some(dir) = &args.tensorboard {
        files.extend(tensorboard::write(runs, dir)?);
    }
    Ok(files)
}

/// The sweep whose folder was given, if one was.
fn sweep(paths: &[PathBuf]) -> Result<Option<Sweep>> {
    let mut sweeps: Vec<Sweep> = Vec::new();
    for path in paths.iter().filter(|path| !path.join(EVENTS).is_file()) {
        sweeps.extend(Sweep::of_folder(path)?);
    }
    match sweeps.pop() {
        Some(sweep) if paths.len() > 1 => Err(Error::usage(format!(
            "{} is the folder of a sweep: its report stands alone; give it without the others, or name its runs ({}/ARM/seed-N)",
            sweep.out.display(),
            sweep.out.display()
        ))),
        sweep => Ok(sweep),
    }
}

/// The report of a sweep; the measurements of all its runs that have made a step, named `ARM/seed-N`.
fn of_sweep(args: &Args, sweep: &Sweep) -> Result<()> {
    let outcomes = outcomes(sweep)?;
    let mut runs = Vec::new();
    if args.csv.is_some() || args.tensorboard.is_some() {
        for outcome in outcomes.iter().filter(|outcome| outcome.tokens > 0.0) {
            runs.push(Run::load(&outcome.job.folder)?.named(&outcome.job.name));
        }
    }
    let files = hand_on(args, &runs)?;
    crate::cli::sweep::tell(sweep, &outcomes, args.out.as_deref(), args.json, &files)
}
