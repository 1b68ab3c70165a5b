//! `taper sweep`: trains the runs of a sweep file and compares them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cli::signals::stop_flag;
use crate::cli::ui::{print_json, print_line, say};
use crate::error::{Error, Result};
use crate::ops::matmul::{Into, Mat, MatMut, Threads, gemm};
use crate::run::summary::{count, duration};
use crate::sweep::Sweep;
use crate::sweep::plan::{Estimate, estimate};
use crate::sweep::report::report;
use crate::sweep::results::{Outcome, State, outcomes};
use crate::sweep::runner::{self, Folder, News, Options};

/// Arguments of `taper sweep`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper sweep docs/examples/ablation/SWEEP.toml --dry-run        the plan: runs, time, cost
  taper sweep docs/examples/ablation/SWEEP.toml                  train what is missing, then compare
  taper sweep docs/examples/ablation/SWEEP.toml --report-only    compare what is there
  taper sweep my-sweep.toml --price-per-hour 2.50 --device cuda:0,cuda:1

The same command continues with a sweep that was stopped or killed. docs/statistics.md explains the table.
Exit codes: 0 done, 1 failed (or runs of the sweep failed), 2 bad usage or config, 3 stopped by a signal.")]
pub struct Args {
    /// The sweep file: base config, arms, seeds.
    sweep: PathBuf,
    /// The folder of the runs [default: `out` of the file, else runs/NAME].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the plan and train nothing.
    #[arg(long)]
    dry_run: bool,
    /// Write the report of the runs that are there and train nothing.
    #[arg(long, conflicts_with = "dry_run")]
    report_only: bool,
    /// Price of the machine, in any currency: the plan then says what the sweep costs.
    #[arg(long, value_name = "X")]
    price_per_hour: Option<f64>,
    /// Train runs again that failed before.
    #[arg(long)]
    retry_failed: bool,
    /// cpu, cuda, cuda:N or auto, or several (cuda:0,cuda:1): one run at a time on each [default: run.device of the config].
    #[arg(long, value_name = "DEVICE,..")]
    device: Option<String>,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Runs `taper sweep`.
///
/// # Errors
/// For a sweep file that is wrong; when stopped by a signal; and at the end if runs failed.
pub fn run(args: Args) -> Result<()> {
    if args.price_per_hour.is_some_and(|price| !(price.is_finite() && price >= 0.0)) {
        return Err(Error::usage("--price-per-hour: a number of at least 0"));
    }
    let sweep = Sweep::load(&args.sweep, args.out.as_deref())?;
    let before = outcomes(&sweep)?;
    if args.report_only {
        return tell(&sweep, &before, None, args.json, &[]);
    }
    let devices = args.device.as_deref().map(runner::devices).transpose()?.unwrap_or_default();
    let estimate = estimate(&sweep, &before, matmul_rate)?.at_once(devices.len());
    say(&plan(&sweep, &before, &estimate, args.price_per_hour));
    if args.dry_run {
        return if args.json {
            print_json(&plan_json(&sweep, &before, &estimate, args.price_per_hour))
        } else {
            Ok(())
        };
    }
    let stop = stop_flag()?;
    let program = std::env::current_exe().map_err(Error::io("find", Path::new("the program itself")))?;
    let options = Options { program, devices, retry_failed: args.retry_failed };
    let due = before.iter().filter(|outcome| runner::is_due(outcome, args.retry_failed)).count();
    {
        let folder = Folder::open(&sweep)?;
        let (begun, mut started, mut done) = (Instant::now(), 0, 0);
        let mut told = |news: News| match news {
            News::Started(job, device) => {
                started += 1;
                let on = device.map_or(String::new(), |device| format!(" on {device}"));
                say(&format!("[{started}/{due}] {}{on} ...", job.name));
            }
            News::Ended(job, entry) => {
                done += 1;
                let message = entry.message.as_ref().map_or(String::new(), |message| format!(": {message}"));
                let left = begun.elapsed().as_secs_f64() / done as f64 * (due - done) as f64;
                let rest = if due > done && entry.ended != "stopped" {
                    format!("; about {} left", duration(left))
                } else {
                    String::new()
                };
                say(&format!("  {} {} after {}{message}{rest}", job.name, entry.ended, duration(entry.seconds)));
            }
        };
        runner::run(&folder, &sweep, &before, &options, &stop, &mut told)?;
    }
    let after = outcomes(&sweep)?;
    tell(&sweep, &after, None, args.json, &[])?;
    match after.iter().filter(|outcome| outcome.state == State::Failed).count() {
        0 => Ok(()),
        failed => Err(Error::Training(format!(
            "{failed} of {} runs failed; the table is over the others (console.txt in their folders has the details, \
             --retry-failed trains them again)",
            after.len()
        ))),
    }
}

/// Writes the report of the runs that are there, into the sweep's folder if nowhere else, and prints it; `more` are files
/// that were written besides.
pub(crate) fn tell(
    sweep: &Sweep,
    outcomes: &[Outcome],
    out: Option<&Path>,
    json: bool,
    more: &[PathBuf],
) -> Result<()> {
    let report = report(sweep, outcomes);
    if report.ablation.runs.0 == 0 {
        let hint = format!("{} holds no finished run yet", sweep.out.display());
        return Err(Error::usage(format!("{hint}; train the sweep first (without --report-only)")));
    }
    let mut files = report.write(sweep, out.unwrap_or(&sweep.out.join("report")))?;
    files.extend_from_slice(more);
    if json {
        let mut value = report.json(sweep)?;
        value["files"] = files.iter().map(|file| file.display().to_string()).collect();
        return print_json(&value);
    }
    print_line(&report.text())?;
    files.iter().try_for_each(|file| print_line(&format!("wrote {}", file.display())))
}

fn plan(sweep: &Sweep, outcomes: &[Outcome], estimate: &Estimate, price: Option<f64>) -> String {
    let (all, done, failed) = estimate.runs;
    let mut lines = vec![
        format!("sweep     {} in {}", sweep.name, sweep.out.display()),
        format!("baseline  {}", sweep.arms[sweep.baseline].name),
    ];
    for arm in &sweep.arms {
        let set = arm.overrides().join(", ");
        lines.push(format!("arm       {}: {}", arm.name, if set.is_empty() { "the base config" } else { &set }));
    }
    let seeds: Vec<String> = sweep.seeds.iter().map(|seed| seed.to_string()).collect();
    lines.push(format!("seeds     {}", seeds.join(", ")));
    let noise = outcomes.iter().filter(|o| o.job.training.is_some()).count();
    let extra = if noise > 0 { format!(", {noise} of them to split the baseline's noise") } else { String::new() };
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    lines.push(format!("runs      {all}{extra}: {done} done{failed}"));
    let how = match estimate.speed.measured {
        true => "as fast as the finished runs",
        false => "a guess from the speed of matrix products; better once a run is finished",
    };
    lines.push(match estimate.seconds {
        Some(seconds) => format!("time      about {} for {} FLOPs ({how})", duration(seconds), count(estimate.flops)),
        None => "time      not known in advance: train.epochs depends on the data".into(),
    });
    if let Some((price, seconds)) = price.zip(estimate.seconds) {
        lines.push(format!("cost      about {:.2} at {price} an hour", price * seconds / 3600.0));
    }
    lines.join("\n")
}

fn plan_json(sweep: &Sweep, outcomes: &[Outcome], estimate: &Estimate, price: Option<f64>) -> serde_json::Value {
    let runs: Vec<_> = outcomes
        .iter()
        .map(|o| serde_json::json!({"run": o.job.name, "folder": o.job.folder.display().to_string(), "state": o.state, "set": o.job.overrides}))
        .collect();
    serde_json::json!({
        "sweep": sweep.name,
        "baseline": sweep.arms[sweep.baseline].name,
        "runs": runs,
        "flops": estimate.flops,
        "seconds": estimate.seconds,
        "seconds_measured": estimate.speed.measured,
        "cost": price.zip(estimate.seconds).map(|(price, seconds)| price * seconds / 3600.0),
    })
}

/// The share of the matrix products' rate that training small models reaches.
const TRAINING_SHARE: f64 = 0.3;

/// Training operations per second, guessed from a few matrix products of 256 rows and columns.
fn matmul_rate() -> f64 {
    const SIDE: usize = 256;
    let (a, b) = (vec![0.5f32; SIDE * SIDE], vec![0.25f32; SIDE * SIDE]);
    let mut c = vec![0.0f32; SIDE * SIDE];
    let mut product = || {
        let (c, a, b) = (MatMut::new(&mut c, SIDE, SIDE), Mat::new(&a, SIDE, SIDE), Mat::new(&b, SIDE, SIDE));
        gemm(c, Into::Set, 1.0, a, b, Threads::All);
    };
    // The first one finds threads and caches cold.
    product();
    let begun = Instant::now();
    let mut products = 0u32;
    while products < 8 || begun.elapsed().as_millis() < 50 {
        product();
        products += 1;
    }
    let operations = 2.0 * (SIDE * SIDE * SIDE) as f64 * f64::from(products);
    TRAINING_SHARE * operations / begun.elapsed().as_secs_f64()
}
