//! `taper train`: arguments, the terminal, and who watches. The run itself is [`crate::run`].

use std::path::PathBuf;
use std::process::Command;

use crate::cli::push::pusher::Pusher;
use crate::cli::signals::stop_flag;
use crate::cli::ui::log::Verbosity;
use crate::cli::ui::progress::{Charts, Console};
use crate::cli::ui::terminal::silence;
use crate::cli::ui::{Terminal, say};
use crate::collective::{Ranks, launch};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::open::EngineKind;
use crate::run::{self, Options, Prepared, Supervision, prepare};

/// Arguments of `taper train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  taper train configs/quickstart.toml
  taper train configs/quickstart.toml --set 'data.text=[\"my.txt\"]' --set train.max_steps=1000 --run runs/mine
  taper train configs/quickstart.toml --resume
  taper train configs/gpt2_124m.toml --gpus 8
  torchrun --no-python --nproc-per-node 8 taper train configs/gpt2_124m.toml

Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 stopped by a signal after the state was saved.")]
pub struct Args {
    /// The config file; docs/config.md describes every key.
    config: PathBuf,
    /// Override a key of the config; may be given several times.
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// The run folder [default: run.dir of the config, else runs/NAME].
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Continue the run in its folder (from its newest whole checkpoint; from the start where there is none).
    #[arg(long)]
    resume: bool,
    /// cpu, cuda, cuda:N or auto [default: run.device of the config].
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Train on N GPUs of this machine, one process each.
    #[arg(long, value_name = "N")]
    gpus: Option<usize>,
    /// Train on the CPU in N processes of this machine.
    #[arg(long, value_name = "N")]
    processes: Option<usize>,
    /// With --gpus and --processes: how often to start all of them again from the last checkpoint after one has failed.
    #[arg(long, value_name = "N", default_value_t = 3)]
    restarts: usize,
    /// The engine that computes: `native`, or `reference`, the slow one on candle that the native one is checked against.
    #[arg(long, value_enum, default_value = "native")]
    engine: Engine,
}

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// Our own operators.
    Native,
    /// candle, with its own autodiff.
    Reference,
}

/// Runs `taper train`.
///
/// # Errors
/// As [`run::prepare()`] and [`Prepared::train`].
pub fn run(args: Args, verbosity: Verbosity) -> Result<()> {
    if let Some(processes) = asked(&args)?
        && processes > 1
    {
        return supervise(&args, processes, verbosity);
    }
    let ranks = run::join(|code| std::process::exit(code.into()))?;
    if ranks.rank() > 0 {
        silence();
    }
    let result = run_rank(args, ranks.clone());
    if let Err(error) = &result
        && error.exit_code() != 3
    {
        ranks.abort(error);
    }
    result
}

/// One process's part of a run.
fn run_rank(args: Args, ranks: Ranks) -> Result<()> {
    let config = Config::load(&args.config, &args.set)?;
    let engine = match args.engine {
        Engine::Native => EngineKind::Native,
        Engine::Reference => EngineKind::Reference,
    };
    let options = Options { folder: args.run, resume: args.resume, device: args.device, engine, ranks };
    let ui = Terminal::new();
    let mut prepared = prepare(config, options, &ui)?;
    if prepared.is_finished() {
        return Ok(());
    }
    let stop = stop_flag()?;
    let mut console = Console::new(prepared.max_steps);
    let mut charts = Charts::default();
    let mut pusher = Pusher::new(&prepared.config.push, &prepared.run);
    prepared.train(&mut [&mut console, &mut charts, &mut pusher], &stop, &ui)?;
    say(&next_commands(&prepared));
    Ok(())
}

/// How many processes `--processes` or `--gpus` asks to start here; none for a process that was started as a rank.
///
/// # Errors
/// `Usage` for zero, or for both.
fn asked(args: &Args) -> Result<Option<usize>> {
    let asked = match (args.gpus, args.processes) {
        (Some(_), Some(_)) => return Err(Error::usage("--gpus and --processes: give one of them")),
        (None, None) => return Ok(None),
        (gpus, processes) => gpus.or(processes).unwrap_or(1),
    };
    if asked == 0 {
        return Err(Error::usage("--gpus 0 or --processes 0: at least 1 is needed to train"));
    }
    if launch::place()?.is_some() {
        return Err(Error::usage(
            "--gpus and --processes start the ranks themselves; a launcher (torchrun, srun, mpiexec) has started this process: \
             leave the option out",
        ));
    }
    Ok(Some(asked))
}

/// Starts `processes` ranks of this command here and watches them.
fn supervise(args: &Args, processes: usize, verbosity: Verbosity) -> Result<()> {
    let config = Config::load(&args.config, &args.set)?;
    let folder = args.run.clone().unwrap_or_else(|| config.run_dir());
    let program = std::env::current_exe()
        .map_err(|error| Error::Device(format!("where this program is cannot be found: {error}")))?;
    let device = match args.gpus {
        Some(_) => Some("cuda".to_string()),
        None => args.device.clone(),
    };
    let start = |resume: bool| {
        let mut command = Command::new(&program);
        command.arg("train").arg(&args.config).arg("--run").arg(&folder);
        args.set.iter().for_each(|set| {
            command.arg("--set").arg(set);
        });
        if args.resume || resume {
            command.arg("--resume");
        }
        if let Some(device) = &device {
            command.args(["--device", device]);
        }
        command.args(verbosity.options());
        command
    };
    let stop = stop_flag()?;
    run::supervise(
        Supervision { processes, restarts: args.restarts },
        &config,
        &folder,
        &start,
        &stop,
        &Terminal::new(),
    )
}

/// The commands to try next.
fn next_commands(prepared: &Prepared) -> String {
    let run = prepared.run.display();
    let has_shards = prepared.run.join("data/tokens").is_dir();
    let evaluate = match has_shards && prepared.streams.val.is_some() {
        true => format!("\n  taper eval {run} --data {run}/data/tokens"),
        false => String::new(),
    };
    format!(
        "\ndone. {run} holds the loss curve (report/index.html, report/loss.png) and the model (checkpoints/). Try next:\n  \
         taper sample {run}\n  taper sample {run} --prompt \"Once\" --temperature 0.7 --num-samples 3{evaluate}\n  \
         taper model info {run}\n  taper report {run}"
    )
}
