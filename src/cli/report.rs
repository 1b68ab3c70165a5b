//! `taper report`: draws the charts of runs, one or several overlaid, prints their numbers, and hands them on in other forms.

use super::{print_json, print_line};
use crate::error::{Error, Result, ResultExt};
use crate::report::{Run, csv, draw_runs, figures_of, json, summary, tensorboard};
use std::path::PathBuf;

/// Arguments of `taper report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper report runs/quickstart                        draws into runs/quickstart/report/
  taper report runs/a runs/b                          overlays them, and says what differs: report/index.html
  taper report runs/a runs/b --csv both.csv           every measurement, for a spreadsheet or Weights & Biases
  taper report runs/quickstart --tensorboard tb       then: tensorboard --logdir tb
  taper report runs/quickstart --json                 the numbers as one JSON object (docs/report.md)")]
pub struct Args {
    /// Run folders; several are overlaid in one report.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where to draw [default: the run's own report/; report/ for several].
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
    let runs = Run::load_all(&args.runs)?;
    let out = match (&args.out, &runs[..]) {
        (Some(out), _) => out.clone(),
        (None, [one]) => one.path.join("report"),
        (None, _) => PathBuf::from("report"),
    };
    let mut files = draw_runs(&runs, &out).context(|| format!("drawing the report into {}", out.display()))?;
    if let Some(path) = &args.csv {
        std::fs::write(path, csv::csv(&runs)).map_err(Error::io("write", path))?;
        files.push(path.clone());
    }
    if let Some(dir) = &args.tensorboard {
        files.extend(tensorboard::write(&runs, dir)?);
    }
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
