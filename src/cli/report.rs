//! `taper report`: draws the charts of runs and prints their numbers.

use super::{print_json, print_line};
use crate::error::{Error, Result, ResultExt};
use crate::report::{Run, draw_run, summary};
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `taper report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper report runs/quickstart                        draws into runs/quickstart/report/
  taper report runs/a runs/b --out reports            draws into reports/a/ and reports/b/
  taper report runs/quickstart --json                 the numbers as one JSON object")]
pub struct Args {
    /// Run folders.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where to draw: the files of one run go right there, those of several into a folder for each
    /// [default: the run's own report/].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Runs `taper report`.
///
/// # Errors
/// At the first run that cannot be read or drawn.
pub fn run(args: Args) -> Result<()> {
    let mut reports = Vec::new();
    let mut targets: Vec<PathBuf> = Vec::new();
    for dir in &args.runs {
        let run = Run::load(dir)?;
        let target = match &args.out {
            None => dir.join("report"),
            Some(out) if args.runs.len() == 1 => out.clone(),
            Some(out) => out.join(&run.name),
        };
        if targets.contains(&target) {
            return Err(Error::usage(format!(
                "two runs would be drawn into {}; give them folders of different names, or report them one by one",
                target.display()
            )));
        }
        let files = draw_run(&run, &target).context(|| format!("drawing the report of {}", dir.display()))?;
        let summary = summary(&run.log);
        if !args.json {
            print_line(&format!("{}{}", run.name, if run.log.torn { " (its log ends in a torn line)" } else { "" }))?;
            for (name, value) in summary.rows() {
                print_line(&format!("  {name:<20}  {value}"))?;
            }
            for file in &files {
                print_line(&format!("  wrote {}", file.display()))?;
            }
        }
        let summary = serde_json::to_value(&summary)
            .map_err(|error| Error::data(dir, format!("the summary cannot be written as JSON: {error}")))?;
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        reports.push(json!({"name": run.name, "run": dir.display().to_string(), "files": files, "summary": summary}));
        targets.push(target);
    }
    if args.json { print_json(&json!({ "runs": reports })) } else { Ok(()) }
}
